"""How a population lives, as the user chose it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, Activation

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
        _check_choice("selection", self.selection, get_args(Selection))
        _check_choice("mutation", self.mutation, (*get_args(Mutation), None))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_range("truncation", self.truncation, 0.5)
        _check_range("resample_probability", self.resample_probability, 1.0)
        for argument in ("refine", "synchronous"):
            _check_choice(argument, getattr(self, argument), (True, False))
        if self.timeout is not None and not (_is_real(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout must be positive seconds, or None, got {self.timeout!r}.")


def _check_choice(argument: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {expected}, got {value!r}.")


def _check_range(argument: str, value: float, highest: float) -> None:
    if not _is_real(value) or not 0 <= value <= highest:
        raise ValueError(f"{argument} must be between 0 and {highest}, got {value!r}.")


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
