"""Where students are born, if not at random: at the best trials of other samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import read_segment
from optuna_hypergrad.samplers.distributions import internal_values
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.samplers.turns import Turn


def best_first(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The complete trials with finite values, the best first."""
    sign = -1.0 if maximize else 1.0
    values = {t.number: t.value for t in trials if t.state == TrialState.COMPLETE}
    ranked = sorted((sign * v, n) for n, v in values.items() if v is not None and math.isfinite(v))
    by_number = {t.number: t for t in trials}
    return [by_number[number] for _, number in ranked]


def founding_values(study: Study, turn: Turn) -> dict[str, float]:
    """The i-th best trial besides the population's, for its i-th member; empty if there is none."""
    trials = study._get_trials(deepcopy=False, use_cache=False)
    foreign = [t for t in trials if read_segment(t.number, t.system_attrs) is None]
    ranked = best_first(foreign, maximizes(study))
    if turn.member is None or turn.member >= len(ranked):
        return {}
    return internal_values(ranked[turn.member])
