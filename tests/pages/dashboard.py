"""docs/dashboard.md: its code publishes."""

from typing import Any

from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note

from optuna_hypergrad import recommended


def check_the_code_publishes(page: dict[str, Any]) -> None:
    study = page["study"]
    assert study.user_attrs["hg:losses"] == 12
    number = recommended(study).number
    assert f"Trial **{number}** is recommended" in get_note(study)
    files = {meta.filename for meta in get_all_artifact_meta(study)}
    assert f"recommended_schedules_trial_{number}.csv" in files
