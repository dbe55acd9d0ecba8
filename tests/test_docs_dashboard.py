"""What docs/dashboard.md shows: its code runs, and its pictures are there."""

import re
from pathlib import Path
from typing import Any

import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "dashboard.md").read_text()


def test_the_code_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, names)  # the block is this repository's own text
    study = names["study"]
    assert study.user_attrs["hg:outer_steps"] == 12
    assert f"Trial **{study.best_trial.number}**" in get_note(study)
    files = {meta.filename for meta in get_all_artifact_meta(study)}
    assert f"best_schedules_trial_{study.best_trial.number}.csv" in files


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", PAGE)
    assert len(pictures) == 7
    assert all(0 < (DOCS / name).stat().st_size < 150_000 for name in pictures)
