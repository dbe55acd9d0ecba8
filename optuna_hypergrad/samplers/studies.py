"""What samplers, pruners and figures ask of a study: its sampler, its best trials; seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.reports.objective import read_constraints, total_violation

S = TypeVar("S", bound=BaseSampler)


def sampler_of(study: Study, kind: type[S]) -> S | None:
    """The study's sampler if it is of this kind, even inside a ``PartialFixedSampler``."""
    sampler = getattr(study.sampler, "_base_sampler", study.sampler)
    return sampler if isinstance(sampler, kind) else None


def fixed_params(study: Study) -> Collection[str]:
    """The parameters that a ``PartialFixedSampler`` around the study's sampler fixes."""
    return frozenset(getattr(study.sampler, "_fixed_params", ()))


def check_one_objective(study: Any) -> None:
    """Raise a ValueError unless ``study`` is a study with one objective."""
    check_kind("study", study, Study, "an Optuna study")
    if len(study.directions) > 1:
        raise ValueError("study: hypergradients are of one objective, but it has several.")


def maximizes(study: Study) -> bool:
    """Whether the study maximizes."""
    return study.directions[0] == StudyDirection.MAXIMIZE


def rank_key(trial: FrozenTrial, maximize: bool) -> tuple[float, float]:
    """Sort key of complete trials, the best first: total violation, then loss.

    As in Optuna's own samplers, a feasible trial is better than an infeasible one, and of two
    infeasible ones the one with the smaller violation (constrained domination).
    """
    value = math.inf if trial.value is None or math.isnan(trial.value) else trial.value
    return violation(trial), -value if maximize else value


def violation(trial: FrozenTrial) -> float:
    """Total violation of a trial's constraints; 0 where it is feasible."""
    return total_violation(read_constraints(trial))


def ranked(keys: Sequence[tuple[float, float]]) -> list[float]:
    """Ranks of sort keys from 0 on, equal for equal keys; infinite for an infinite loss.

    Example:
        >>> ranked([(0.0, 3.0), (2.0, 0.1), (0.0, 1.0), (math.inf, math.inf), (0.0, 3.0)])
        [1.0, 2.0, 0.0, inf, 1.0]
    """
    violations, losses = (np.array([key[i] for key in keys], dtype=float) for i in (0, 1))
    order = np.lexsort((losses, violations))
    violations, sorted_losses = violations[order], losses[order]
    is_next = (violations[1:] != violations[:-1]) | (sorted_losses[1:] != sorted_losses[:-1])
    ranks = np.empty(len(keys))
    ranks[order] = np.append(0, np.cumsum(is_next))[: len(keys)]
    ranks[~np.isfinite(losses)] = math.inf
    found: list[float] = ranks.tolist()
    return found


def best_first(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The complete trials with finite values, the best first; infeasible ones come last."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    finite = (t for t in complete if t.value is not None and math.isfinite(t.value))
    return sorted(finite, key=lambda trial: (*rank_key(trial, maximize), trial.number))


def checked_seed(seed: int | None) -> int:
    """Return ``seed`` as an int, or draw one if it is None; require a non-negative integer."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}.")
    return int(seed)


def random_seed(*entropy: int) -> int:
    """A seed for another library, derived from several integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
