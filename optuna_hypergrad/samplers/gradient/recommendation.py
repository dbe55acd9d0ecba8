"""What a study recommends: the hyperparameters expected to do best in another training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arrays.recommendation import best_neighbourhood
from optuna_hypergrad.reports.arrays import array_names
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.proposals import read_proposal
from optuna_hypergrad.samplers.gradient.model import Model, Observation, SearchSpace
from optuna_hypergrad.samplers.studies import maximizes, violation


class Recommendation(NamedTuple):
    """The trial whose hyperparameters are expected to do best in another training."""

    trial: FrozenTrial
    expected: float | None
    """The objective value expected there; None without a model, which needs five trials and no
    arrays."""


_KNOWN: WeakKeyDictionary[Study, tuple[int, Recommendation | None]] = WeakKeyDictionary()


def recommendation(study: Study) -> Recommendation | None:
    """What a study recommends; None if no trial is complete, finite and feasible.

    The model is fitted once for the same finished trials: several figures and the note show it.

    Args:
        study: A study of any sampler, with one objective.
    """
    trials = study.get_trials(deepcopy=False)
    n_finished = sum(trial.state.is_finished() for trial in trials)
    known = _KNOWN.get(study)
    if known is None or known[0] != n_finished:
        known = _KNOWN[study] = n_finished, _recommendation(trials, maximizes(study))
    return known[1]


def _recommendation(trials: Sequence[FrozenTrial], maximize: bool) -> Recommendation | None:
    found = (Observation.of(t, maximize) for t in trials if not violation(t))
    observations = [one for one in found if one is not None]
    best = min(observations, key=lambda one: (one.loss, one.trial.number), default=None)
    if best is None or not math.isfinite(best.loss):
        return None
    # A pruned trial says nothing of another training to the end.
    ended = [one for one in observations if one.trial.state != TrialState.PRUNED]
    if array_names(best.trial):
        losses = [one.loss for one in ended]
        return Recommendation(best_neighbourhood([one.trial for one in ended], losses), None)
    free = {n: d for n, d in best.trial.distributions.items() if not d.single()}
    space = SearchSpace(free)
    model = Model(space, [one for one in ended if space.contains(one.trial)])
    trial = model.recommended()
    if trial is None:
        return Recommendation(best.trial, None)
    loss = model.expected_loss(trial)
    return Recommendation(trial, -loss if maximize else loss)


def is_modelled(study: Study) -> bool:
    """Whether the Gaussian process proposed the latest trial of a ``GradientSampler``."""
    for trial in reversed(study.get_trials(deepcopy=False)):
        if read_proposal(trial.number, trial.system_attrs) is not None:
            return True
        if read_claim(trial.number, trial.system_attrs) is not None:
            return False
    return False
