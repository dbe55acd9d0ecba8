"""What docs/workers.md shows: its code runs."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "workers.md").read_text()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_journal_of_the_page_is_a_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)  ```", PAGE, flags=re.DOTALL)
    exec(re.sub("^  ", "", code, flags=re.MULTILINE), names)  # the repository's own text
    study = optuna.create_study(storage=names["storage"])
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(study.trials) == 2 and (tmp_path / "journal.log").exists()
