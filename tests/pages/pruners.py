"""docs/pruners.md: its code runs and finds what it says."""

from typing import Any

from optuna.trial import TrialState


def check_the_code_prunes_and_learns(page: dict[str, Any]) -> None:
    study, population = page["study"], page["population"]
    first, second = study.trials[:2]
    assert first.state == TrialState.PRUNED and first.last_step < 50
    assert second.params != first.params and study.best_value < 0.6
    assert TrialState.PRUNED in {trial.state for trial in population.trials}
    assert population.best_value < 0.01
