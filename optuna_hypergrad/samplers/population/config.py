"""The arguments of PopulationSampler that decide about segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from optuna.distributions import BaseDistribution

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, Activation
from optuna_hypergrad.algorithms.surrogate import FEWEST_SLOPES
from optuna_hypergrad.arguments import check_choice, checked_number, short
from optuna_hypergrad.samplers.distributions import is_numeric

Selection = Literal["truncation", "tournament"]
Mutation = Literal["surrogate", "teacher", "perturb", "resample", "hypergradient"]


@dataclass(frozen=True)
class PopulationConfig:
    """Arguments of PopulationSampler, which documents them; ValueError if one is out of range."""

    population_size: int
    selection: Selection
    truncation: float
    burn_in: int
    mutation: Mutation | None
    activation: Activation
    resample_probability: float
    refine: bool
    synchronous: bool
    timeout: float | None
    fixed: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "selection": get_args(Selection),
            "mutation": (*get_args(Mutation), None),
            "activation": ACTIVATIONS,
            "refine": (True, False),
            "synchronous": (True, False),
        }
        for argument, allowed in choices.items():
            check_choice(argument, getattr(self, argument), allowed)
        expected, probability = "be between 0 and 0.5", self.resample_probability
        checked_number("truncation", self.truncation, expected, lambda x: 0 <= x <= 0.5)
        expected = "be between 0 and 1"
        checked_number("resample_probability", probability, expected, lambda x: 0 <= x <= 1)
        if self.timeout is not None:
            expected = "be positive seconds, or None"
            checked_number("timeout", self.timeout, expected, lambda seconds: seconds > 0)
        both = sorted({*self.fixed} & {*self.mutable})
        if both:
            raise ValueError(f"fixed and mutable must differ, got {both[0]!r} in both.")

    def wants_hypergradient(self, space: Mapping[str, BaseDistribution]) -> bool:
        """Whether the hypergradient of a segment is worth its price.

        Where the surrogate finds good values without any, as many more members are better, unless
        there are many hyperparameters.

        Args:
            space: The parameters that segments have.
        """
        if self.mutation in ("teacher", "hypergradient"):
            return True
        if self.mutation != "surrogate" or not self.refine:
            return self.refine
        return sum(is_numeric(distribution) for distribution in space.values()) >= FEWEST_SLOPES


def checked_names(argument: str, value: Collection[str]) -> tuple[str, ...]:
    """``value`` in alphabetical order, or a ValueError that names the argument."""
    is_list = isinstance(value, Collection) and not isinstance(value, str | Mapping)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{argument} must be a list of names, got {short(value)}.")
    return tuple(sorted(set(value)))
