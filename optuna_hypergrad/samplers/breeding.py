"""How a population lives, as the user chose it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, Activation
from optuna_hypergrad.schedules import checked_count

Selection = Literal["truncation", "tournament"]
Mutation = Literal["teacher", "perturb", "resample", "hypergradient"]


@dataclass(frozen=True)
class Breeding:
    """The arguments of PopulationSampler that bear on the family tree; it documents them.

    Raises:
        ValueError: If one is out of range; the message names it.
    """

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

    def __post_init__(self) -> None:
        checked_count("population_size", self.population_size)
        _check_choice("selection", self.selection, get_args(Selection))
        _check_choice("mutation", self.mutation, (*get_args(Mutation), None))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_range("truncation", self.truncation, 0.5)
        _check_range("resample_probability", self.resample_probability, 1.0)
        _check_range("burn_in", self.burn_in, math.inf)
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be positive seconds, or None, got {self.timeout}.")


def _check_choice(argument: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {expected}, got {value!r}.")


def _check_range(argument: str, value: float, highest: float) -> None:
    if isinstance(value, bool) or not 0 <= value <= highest:
        raise ValueError(f"{argument} must be between 0 and {highest}, got {value!r}.")
