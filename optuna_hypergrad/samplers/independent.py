"""What a trial should have reported and did not; each is told once.

How another sampler proposes what ours leaves open.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_hypergrad.arguments import check_callable
from optuna_hypergrad.reports import (
    read_constraint_gradients,
    read_constraints,
    read_gradient,
    read_shapes,
    write_constraints,
)
from optuna_hypergrad.samplers.describe import describe_left_out, log_line
from optuna_hypergrad.samplers.memory import Memory, R
from optuna_hypergrad.schedules import parameter_names


class Gaps:
    """What was left out of reports, as far as a sampler has told of it."""

    def __init__(self) -> None:
        self._told: set[str] = set()  # parameters
        self._has_warned = False

    def tell_left_out(
        self, trial: FrozenTrial, fate: str, among: Collection[str] | None = None
    ) -> None:
        """Log which parameters' hypergradients a complete trial left out.

        Args:
            trial: The trial.
            fate: What becomes of these parameters.
            among: Tell of these parameters alone.
        """
        names = [name for name in left_out(trial, among) if name not in self._told]
        if names:
            self._told.update(names)
            log_line(lambda: describe_left_out(trial.number, names, fate))

    def warn_of_constraints(self, trial: FrozenTrial) -> None:
        """Warn of a hypergradient of a constraint that a complete trial does not have."""
        constraints = read_constraints(trial)
        unknown = [name for name in read_constraint_gradients(trial) if name not in constraints]
        if unknown and not self._has_warned:
            self._has_warned = True
            there = ", ".join(map(repr, constraints)) or "none"
            warnings.warn(_NO_CONSTRAINT.format(trial.number, unknown[0], there), stacklevel=4)


def left_out(trial: FrozenTrial, among: Collection[str] | None = None) -> list[str]:
    """The float parameters that a trial which reported hypergradients left out.

    A schedule that is left out as a whole is named instead of its parameters.
    """
    gradient = read_gradient(trial)
    if gradient is None:
        return []
    known = {*gradient}.union(*read_constraint_gradients(trial).values())
    floats = {n: d for n, d in trial.distributions.items() if isinstance(d, FloatDistribution)}
    names = {name: name for name, d in floats.items() if name not in known and not d.single()}
    names = {name: name for name in names if among is None or name in among}
    for schedule, shape in read_shapes(trial).items():
        own = parameter_names(schedule, shape.size)
        if names.keys() >= {*own}:
            names |= dict.fromkeys(own, schedule)
    return [*dict.fromkeys(names.values())]


_NO_CONSTRAINT = (
    "Trial {} reported a hypergradient of the constraint {!r}, but its constraints are {}; give "
    "report_hypergradient(..., constraint=...) the name that trial.set_constraint was given, or "
    "the index of a value of constraints_func."
)


ConstraintsFunc = Callable[[FrozenTrial], Sequence[float]]


class CompletedSampler(BaseSampler, Generic[R]):
    """What our samplers have in common: the search space, and a sampler that completes proposals.

    Args:
        independent_sampler: The user's; None for a default that is seeded by what it draws for.
        memory: What is known of the study.
        constraints_func: The user's, as Optuna's own samplers take it; None for none.
    """

    def __init__(
        self,
        independent_sampler: BaseSampler | None,
        memory: Memory[R],
        constraints_func: ConstraintsFunc | None,
    ) -> None:
        if not isinstance(independent_sampler, BaseSampler | None):
            raise ValueError(
                f"independent_sampler must be a sampler or None, got {independent_sampler!r}."
            )
        self._independent = independent_sampler
        self.memory = memory  # for pruners and ``members``, too
        if constraints_func is not None:
            check_callable("constraints_func", constraints_func)
            if hasattr(Trial, "set_constraint"):
                warnings.warn(_DEPRECATED, FutureWarning, stacklevel=3)
        self._constraints_func = constraints_func
        self._gaps = Gaps()

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
        """All parameters that the complete trials have in common.

        As Optuna's ``IntersectionSearchSpace``, which reads on from the first trial that runs:
        that of a worker that died long ago runs for ever.
        """
        with self.memory.reading(study, since=trial) as reader:
            space = sorted((reader.space or {}).items())
        return {name: dist for name, dist in space if not dist.single()}

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Store the trial's constraints, and pass on to the independent sampler."""
        if self._constraints_func is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            write_constraints(study._storage, trial._trial_id, self._constraints_func(trial))
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


_DEPRECATED = (
    "constraints_func: Optuna 5 deprecates it for all samplers, and 7 will remove it; call "
    "trial.set_constraint(name, value) in the objective instead."
)
