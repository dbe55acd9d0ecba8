"""How a population lives, as the user chose it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, Activation
from optuna_hypergrad.arguments import checked_number, short

Selection = Literal["truncation", "tournament"]
Mutation = Literal["teacher", "perturb", "resample", "hypergradient"]


@dataclass(frozen=True)
class PopulationConfig:
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
    fixed: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("selection", self.selection, get_args(Selection))
        _check_choice("mutation", self.mutation, (*get_args(Mutation), None))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_range("truncation", self.truncation, 0.5)
        _check_range("resample_probability", self.resample_probability, 1.0)
        for argument in ("refine", "synchronous"):
            _check_choice(argument, getattr(self, argument), (True, False))
        if self.timeout is not None:
            expected = "be positive seconds, or None"
            checked_number("timeout", self.timeout, expected, lambda seconds: seconds > 0)
        both = sorted({*self.fixed} & {*self.mutable})
        if both:
            raise ValueError(f"fixed and mutable must differ, got {both[0]!r} in both.")


def checked_names(argument: str, value: Collection[str]) -> tuple[str, ...]:
    """``value`` in alphabetical order, or a ValueError that names the argument."""
    is_list = isinstance(value, Collection) and not isinstance(value, str | Mapping)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{argument} must be a list of names, got {short(value)}.")
    return tuple(sorted(set(value)))


def _check_choice(argument: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {expected}, got {value!r}.")


def _check_range(argument: str, value: float, highest: float) -> None:
    checked_number(argument, value, f"be between 0 and {highest}", lambda x: 0 <= x <= highest)
