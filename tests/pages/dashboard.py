"""docs/dashboard.md: its code publishes."""

from typing import Any

from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note


def check_the_code_publishes(page: dict[str, Any]) -> None:
    study = page["study"]
    assert study.user_attrs["hg:outer_steps"] == 12
    assert f"Trial **{study.best_trial.number}**" in get_note(study)
    files = {meta.filename for meta in get_all_artifact_meta(study)}
    assert f"best_schedules_trial_{study.best_trial.number}.csv" in files
