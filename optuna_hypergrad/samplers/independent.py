"""How another sampler proposes what ours leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


def propose(
    sampler: BaseSampler,
    study: Study,
    trial: FrozenTrial,
    space: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """A value for every parameter of ``space``: together where the sampler can, else one by one."""
    common = sampler.infer_relative_search_space(study, trial)
    common = {name: dist for name, dist in common.items() if name in space}
    params = sampler.sample_relative(study, trial, common) if common else {}
    for name, distribution in space.items():
        if name not in params:
            params[name] = sampler.sample_independent(study, trial, name, distribution)
    return params
