"""The files that docs/distributed.md names exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "distributed.md").read_text()


def test_the_files_of_the_page_exist() -> None:
    folder = ROOT / "examples" / "distributed"
    named = set(re.findall(r"\b(\w+\.(?:py|sh|yaml))\b", PAGE)) - {"script.py", "ranks.py"}
    own = {path.name for path in folder.iterdir() if path.is_file()}
    assert named == own - {"shared_objective.py"}
    assert (ROOT / "examples" / "benchmarks" / "ranks.py").exists()
