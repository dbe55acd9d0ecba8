"""How a search starts and moves, as the user of GradientSampler chose it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna_hypergrad.arguments import checked_count, checked_number
from optuna_hypergrad.reports.fields import MOST, Fields


@dataclass(frozen=True)
class Rule:
    """The arguments of GradientSampler that bear on the path of a search; it documents them.

    Raises:
        ValueError: If one is out of range; the message names it.
    """

    safeguard: float | None = 0.05
    start: Mapping[str, float] = field(default_factory=dict)
    step_size: Mapping[str, float] = field(default_factory=dict)
    n_replicates: int = 1
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.safeguard is not None:
            expected = "be at least 0, or None"
            checked_number("safeguard", self.safeguard, expected, lambda x: 0 <= x < math.inf)
        _check_floats("start", self.start)
        _check_floats("step_size", self.step_size)
        for name, size in self.step_size.items():
            if size <= 0:
                raise ValueError(f"step_size: {name!r} must be positive, got {size}.")
        checked_count("n_replicates", self.n_replicates, most=MOST)
        checked_number("tolerance", self.tolerance, "lie in [0, 1)", lambda x: 0 <= x < 1)


def stored_rule(rule: Rule) -> dict[str, Any]:
    """What of a rule is not the default, so that the path can be told without the sampler.

    Not where it starts, which the first trial tells.
    """
    stored = {
        "safeguard": None if rule.safeguard is None else float(rule.safeguard),
        "step_size": {name: float(size) for name, size in rule.step_size.items()},
        "n_replicates": int(rule.n_replicates),
        "tolerance": float(rule.tolerance),
    }
    return {name: value for name, value in stored.items() if value != getattr(Rule(), name)}


def read_rule(fields: Fields) -> Rule:
    """What ``stored_rule`` made; ValueError for anything else."""
    kinds: dict[str, Callable[[str], Any]] = {
        "safeguard": lambda name: None if fields[name] is None else fields.number(name),
        "step_size": fields.numbers,
        "n_replicates": fields.whole,
        "tolerance": fields.number,
    }
    return Rule(**{name: read(name) for name, read in kinds.items() if name in fields})


def _check_floats(argument: str, given: Mapping[str, float]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument} must map names to floats, got {given!r}.")
    for name, value in given.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{argument}: {name!r} must be a finite number, got {value!r}.")
