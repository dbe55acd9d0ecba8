"""docs/batched.md: its code runs and finds what it says."""

from typing import Any

from optuna.trial import TrialState


def check_all_trials_are_complete_and_better_than_the_first(page: dict[str, Any]) -> None:
    study = page["study"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 16
    assert study.best_value < study.trials[0].value
