"""Questions of samplers and pruners to a study; seeds."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection

from optuna_hypergrad.arguments import check_kind

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
