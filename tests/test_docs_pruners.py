"""What docs/pruners.md promises: its code runs and finds what it says."""

import re
from pathlib import Path

import optuna
from optuna.trial import TrialState

PAGE = (Path(__file__).parents[1] / "docs" / "pruners.md").read_text()


def test_the_code_prunes_and_learns() -> None:
    names: dict[str, optuna.Study] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)  # the blocks are this repository's own text
    study, population = names["study"], names["population"]
    first, second = study.trials[:2]
    assert first.state == TrialState.PRUNED and first.last_step < 50
    assert second.params != first.params and study.best_value < 0.6
    assert TrialState.PRUNED in {trial.state for trial in population.trials}
    assert population.best_value < 0.01
