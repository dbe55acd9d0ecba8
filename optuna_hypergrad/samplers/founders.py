"""Where students are born, if not at random: at the best trials of other samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import Segment, read_segment
from optuna_hypergrad.samplers.constraints import rank_key
from optuna_hypergrad.samplers.distributions import internal_values
from optuna_hypergrad.samplers.studies import maximizes


def best_first(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The complete trials with finite values, the best first; infeasible ones come last."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    finite = (t for t in complete if t.value is not None and math.isfinite(t.value))
    return sorted(finite, key=lambda trial: (*rank_key(trial, maximize), trial.number))


def founding_values(study: Study, birth: Segment, failures: int) -> dict[str, float]:
    """Values to be born with: those of the i-th best trial besides the population's.

    Args:
        study: The study.
        birth: Says which member is born.
        failures: How often its birth has failed; each time, a trial that no other member was born
            with is taken.

    Returns:
        Values in internal representation; empty where there are not so many trials.
    """
    if birth.member is None:
        return {}
    trials = study._get_trials(deepcopy=False, use_cache=False)
    foreign = [t for t in trials if read_segment(t.number, t.system_attrs) is None]
    ranked = best_first(foreign, maximizes(study))
    rank = birth.member + failures * birth.population
    return internal_values(ranked[rank]) if rank < len(ranked) else {}
