"""Trials with reports, as pruners see them."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial


def reported(values: Sequence[float] | Mapping[int, float], **attrs: object) -> FrozenTrial:
    """A running trial with intermediate values and user attributes, ``hg__x`` for ``hg:x``."""
    by_step = values if isinstance(values, Mapping) else dict(enumerate(values))
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        intermediate_values=dict(by_step),
        user_attrs={name.replace("__", ":"): value for name, value in attrs.items()},
    )
    trial.number = 0
    return trial


def is_pruned(pruner: optuna.pruners.BasePruner, trial: FrozenTrial) -> bool:
    return pruner.prune(optuna.create_study(), trial)
