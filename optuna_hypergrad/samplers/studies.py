"""What both samplers, and pruners beside them, ask of a study, and of their arguments."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.reports.attributes import with_backoff

S = TypeVar("S", bound=BaseSampler)


def sampler_of(study: Study, kind: type[S]) -> S | None:
    """The study's sampler if it is of this kind, also where ``PartialFixedSampler`` wraps it.

    What pruner and sampler must agree on, such as how many students are truncated, is the
    sampler's to say.
    """
    sampler = getattr(study.sampler, "_base_sampler", study.sampler)
    return sampler if isinstance(sampler, kind) else None


def held(study: Study) -> Collection[str]:
    """The parameters that a ``PartialFixedSampler`` around the study's sampler holds."""
    return frozenset(getattr(study.sampler, "_fixed_params", ()))


def check_one_objective(study: Any) -> None:
    """ValueError unless it is a study, with one objective."""
    check_kind("study", study, Study, "an Optuna study")
    if len(study.directions) > 1:
        raise ValueError("study: hypergradients are of one objective, but it has several.")


def maximizes(study: Study) -> bool:
    """Whether the study looks for large values."""
    return study.directions[0] == StudyDirection.MAXIMIZE


def finished_as(
    study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
) -> FrozenTrial:
    """A trial as it will be stored; before ``after_trial`` has ended, the storage has it running.

    Its attributes are read anew, since another sampler may have stored its constraints meanwhile.
    """
    finished = copy.copy(trial)
    finished.state, finished.values = state, None if values is None else [*values]
    finished.system_attrs = with_backoff(
        f"the attributes of trial {trial.number}",
        lambda: study._storage.get_trial_system_attrs(trial._trial_id),
    )
    return finished


def stop(study: Study) -> bool:
    """End ``study.optimize``; whether that was still to be done."""
    is_ending = getattr(study, "_stop_flag", False)  # another thread may have done so
    try:
        study.stop()
    except RuntimeError:  # ask-and-tell has no loop to end
        return False
    return not is_ending


def checked_seed(seed: int | None) -> int:
    """A seed, drawn if there is none; ValueError if it is not one."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}.")
    return int(seed)


def random_seed(*entropy: int) -> int:
    """A seed for another library, derived from several integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
