"""How another sampler proposes what ours leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class CompletedSampler(BaseSampler):
    """What our samplers have in common: the search space, and a sampler that completes proposals.

    Args:
        independent_sampler: The user's; None for a default that is seeded by what it draws for.
    """

    def __init__(self, independent_sampler: BaseSampler | None) -> None:
        if not isinstance(independent_sampler, BaseSampler | None):
            raise ValueError(
                f"independent_sampler must be a sampler or None, got {independent_sampler!r}."
            )
        self._independent = independent_sampler
        self._search_space = IntersectionSearchSpace(include_pruned=True)

    def reseed_rng(self) -> None:
        """Reseed the independent sampler; our decisions depend on the trials alone."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the independent sampler."""
        if self._independent is not None:
            self._independent.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that every trial so far has in common."""
        space = self._search_space.calculate(study)
        return {name: dist for name, dist in space.items() if not dist.single()}

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass on to the independent sampler."""
        if self._independent is not None:
            self._independent.after_trial(study, trial, state, values)


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
