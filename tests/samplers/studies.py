"""Objectives with known hypergradients, and studies of them."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from optuna_hypergrad import GradientSampler, report_hypergradient

IS_OPTUNA_5 = hasattr(optuna.trial.Trial, "set_constraint")
OPTIMUM = {"x": 0.37, "y": -0.52, "z": 0.01}


def quadratic(trial: optuna.Trial, noise: float = 0.0) -> float:
    """A quadratic in x and y (linear) and z (log); its hypergradient is exact but for noise."""
    params = {name: trial.suggest_float(name, -1, 1) for name in ("x", "y")}
    params["z"] = trial.suggest_float("z", 1e-4, 1.0, log=True)
    errors = {name: value - OPTIMUM[name] for name, value in params.items()}
    report_hypergradient(trial, {name: 2 * e + noise for name, e in errors.items()})
    return sum(e * e for e in errors.values())


def create(sampler: optuna.samplers.BaseSampler | None = None, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=sampler or GradientSampler(seed=0), **options)


def points(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def ask(study: optuna.Study, names: Sequence[str] = ("x", "y")) -> optuna.Trial:
    """A running trial with suggested floats in [−1, 1]."""
    trial = study.ask()
    for name in names:
        trial.suggest_float(name, -1, 1)
    return trial


def finish(
    study: optuna.Study,
    trial: optuna.Trial,
    value: float | None = 1.0,
    state: TrialState | None = None,
    gradient: Callable[[str], float] | float = 1.0,
) -> None:
    """Report (the same number, or by name, for every float) and end the trial."""
    of = gradient if callable(gradient) else lambda name: gradient
    report_hypergradient(trial, {name: of(name) for name in trial.params})
    study.tell(trial, value, state=state)


def claims(study: optuna.Study) -> list[tuple[int, int]]:
    """(chain, step) of each trial."""
    trials = study.get_trials(deepcopy=False)
    return [(t.user_attrs.get("hg:chain", 0), t.user_attrs["hg:step"]) for t in trials]


def constrain(trial: optuna.Trial, value: float, name: str = "c") -> None:
    if IS_OPTUNA_5:
        trial.set_constraint(name, value)
    else:  # as Optuna 5 stores it
        storage = trial.study._storage
        storage.set_trial_system_attr(trial._trial_id, f"constraints:{name}", value)
