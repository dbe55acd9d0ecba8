"""What docs/distributed.md promises: its code runs, and the files that it names are there."""

import re
from pathlib import Path
from typing import Any

import optuna

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "distributed.md").read_text()


def test_the_code_runs_in_one_process() -> None:
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, names)  # the block is this repository's own text
    study: optuna.Study = names["study"]
    assert len(study.trials) == 4 and "hg:gradient" in study.trials[-1].system_attrs


def test_the_files_that_are_named_are_there() -> None:
    folder = ROOT / "examples" / "distributed"
    named = set(re.findall(r"\b(\w+\.(?:py|sh|yaml))\b", PAGE)) - {"script.py", "ranks.py"}
    own = {path.name for path in folder.iterdir() if path.is_file()}
    assert named == own - {"shared_objective.py"}
    assert (ROOT / "examples" / "benchmarks" / "ranks.py").exists()
