"""The growth of derivatives over a trial's training run, as the objective reports it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.trial import BaseTrial, FrozenTrial

from optuna_hypergrad.arguments import (
    check_can,
    check_kind,
    check_name,
    checked_count,
    checked_number,
    short,
)
from optuna_hypergrad.logger import logger
from optuna_hypergrad.reports.attributes import (
    GROWTH,
    GROWTH_TO_END,
    Fields,
    marked,
    read_report,
    rounded,
    set_user_attr,
    write_report,
)

MAX_POINTS = 100  # of the stored growth by step
MIN_TRUST = 0.5  # below which the sign of a hypergradient may be noise
MAX_NAMES = 2  # of parameters in a log line
ROUNDING = 1e-6  # by which a computed fraction may leave [0, 1]


class RunGrowth(Protocol):
    """How fast derivatives grow over a run, as ``autodiff.hypergradient`` measures it."""

    @property
    def total(self) -> float:
        """log10 of the growth over the run; 0 if there is none."""

    @property
    def to_end(self) -> NDArray[np.float64]:
        """log10 of the growth from before each step to the end of the run, shape (steps,)."""

    @property
    def trust(self) -> Mapping[str, float]:
        """By trial parameter, the fraction of its steps that growth does not dominate."""

    @property
    def dominated(self) -> int:
        """Number of first steps that growth dominates; 0 if there are none."""

    @property
    def damped(self) -> float:
        """Mean share of the Hessian products that was left out; 0 where all are exact."""


class RunResult(Protocol):
    """The result of a run with hypergradients, such as that of ``autodiff.hypergradient``."""

    @property
    def gradient(self) -> Mapping[str, Any]:
        """∂(validation loss)/∂λ by trial parameter."""

    @property
    def growth(self) -> RunGrowth | None:
        """How fast derivatives grow over the run; None if it was not measured."""


class StoredGrowth(NamedTuple):
    """What a trial stores of a ``RunGrowth``; numbers may be NaN or infinite."""

    total: float
    """log10 of the growth over the run."""
    steps: int
    """Number of steps of the run."""
    to_end: Mapping[int, float]
    """log10 of the growth from before a step to the end, for at most 100 steps in their order."""
    trust: Mapping[str, float]
    """By trial parameter, the fraction of its steps that growth does not dominate."""
    dominated: int
    """Number of first steps that growth dominates."""
    damped: float
    """Mean share of the Hessian products that was left out."""

    @classmethod
    def of(cls, growth: RunGrowth) -> StoredGrowth:
        """What is stored of a growth.

        Args:
            growth: The growth, in ``gradient.growth`` of ``report_hypergradient``.

        Raises:
            ValueError: If it lacks something, or something has the wrong type or range.

        Example:
            >>> from types import SimpleNamespace
            >>> growth = SimpleNamespace(
            ...     total=2.5, to_end=np.array([2.5, 1]), trust={"lr": 0.5}, dominated=1, damped=0
            ... )
            >>> StoredGrowth.of(growth).to_end
            {0: 2.5, 1: 1.0}
        """
        names = ("total", "to_end", "trust", "dominated", "damped")
        expected = f"None or an object with {', '.join(names)}"
        check_can("gradient.growth", growth, expected, *names)
        by_step, trust = growth.to_end, growth.trust
        check_kind("gradient.growth.to_end", by_step, np.ndarray, "an array of floats")
        if by_step.ndim != 1 or by_step.dtype.kind not in "fiu":
            raise ValueError(
                "gradient.growth.to_end must be an array of floats of shape (steps,), got "
                f"{by_step.dtype} of shape {by_step.shape}."
            )
        check_kind("gradient.growth.trust", trust, Mapping, "a mapping of parameters to floats")
        for name in trust:
            check_name("gradient.growth.trust: each key", name)
        steps = len(by_step)
        chosen = np.linspace(0, steps - 1, min(steps, MAX_POINTS)).round().astype(int).tolist()
        total = checked_number("gradient.growth.total", growth.total, "be a number", lambda _: True)
        return cls(
            total=total,
            steps=steps,
            to_end={step: rounded(float(by_step[step])) for step in chosen},
            trust={
                name: _fraction(f"gradient.growth.trust[{short(name)}]", value)
                for name, value in trust.items()
            },
            dominated=checked_count("gradient.growth.dominated", growth.dominated, 0, steps),
            damped=_fraction("gradient.growth.damped", growth.damped, may_be_nan=True),
        )

    @property
    def noisy(self) -> list[str]:
        """The parameters whose hypergradients are dominated by growth, the least trusted first."""
        names = [name for name, trust in self.trust.items() if trust < MIN_TRUST]
        return sorted(names, key=lambda name: self.trust[name]) if self.dominated else []


def _fraction(argument: str, value: Any, *, may_be_nan: bool = False) -> float:
    """A number in [0, 1], which rounding errors may have left."""

    def fits(number: float) -> bool:
        return -ROUNDING <= number <= 1 + ROUNDING or (may_be_nan and math.isnan(number))

    number = checked_number(argument, value, "lie in [0, 1]", fits)
    return number if math.isnan(number) else min(max(number, 0.0), 1.0)


def split_result(
    gradient: Mapping[str, Any] | RunResult,
) -> tuple[Mapping[str, Any], RunGrowth | None]:
    """A gradient, and its growth or None.

    Args:
        gradient: The argument of ``report_hypergradient``.

    Raises:
        ValueError: If it is neither a mapping nor a result with ``gradient`` and ``growth``.
    """
    if isinstance(gradient, Mapping):
        return gradient, None
    expected = "map parameter names to floats, or be a result of autodiff.hypergradient"
    is_class = isinstance(gradient, type)
    if is_class or not (hasattr(gradient, "gradient") and hasattr(gradient, "growth")):
        raise ValueError(f"gradient must {expected}, got {short(gradient)}.")
    return gradient.gradient, gradient.growth


def report_growth(trial: BaseTrial, growth: StoredGrowth) -> None:
    """Report the growth of a trial's run, and log whose hypergradients may be noise.

    It is a warning where they were not damped.

    Args:
        trial: The running trial.
        growth: Its growth.

    Raises:
        ValueError: If the trial is a ``FrozenTrial``.
        optuna.exceptions.UpdateFinishedTrialError: If it has finished.
    """
    stored: dict[str, Any] = {
        "trial": trial.number,
        "steps": growth.steps,
        "dominated": growth.dominated,
        "run": marked({"total": growth.total, "damped": growth.damped}),
        "trust": dict(growth.trust),
        "to_end": marked({str(step): value for step, value in growth.to_end.items()}),
    }
    write_report(trial, GROWTH_TO_END, stored)
    if math.isfinite(growth.total):
        set_user_attr(trial, GROWTH, rounded(growth.total))
    # Ranks that share a trial all report it.
    if growth.noisy and getattr(trial, "is_first", True):
        log = logger.info if growth.damped > 0 else logger.warning
        log(describe_noise(trial.number, growth))


def describe_noise(number: int, growth: StoredGrowth) -> str:
    """Which hypergradients of a trial growth dominates, as a line of the log.

    Example:
        >>> trust = {"lr_0": 0.0, "lr_1": 0.1, "lr_2": 0.4, "lr_3": 1.0}
        >>> print(describe_noise(3, StoredGrowth(9.02, 50, {}, trust, 40, 0.0)))
        Trial 3: derivatives grow by a factor of 1e9 over the run; the hypergradients of lr_0, lr_1
        (and 1 more) are dominated by growth, so their signs may be noise. See docs/chaos.md.
    """
    names = growth.noisy
    more = f" (and {len(names) - MAX_NAMES} more)" if len(names) > MAX_NAMES else ""
    noun, are, their = "hypergradients", "are", "their signs"
    if len(names) == 1:
        noun, are, their = "hypergradient", "is", "its sign"
    is_finite = math.isfinite(growth.total)
    grow = f"grow by a factor of 1e{growth.total:.0f}" if is_finite else "grow beyond any float"
    effect = f"so {their} may be noise"
    if growth.damped > 0:
        effect = f"which was damped by leaving out {growth.damped:.0%} of the Hessian products"
    return (
        f"Trial {number}: derivatives {grow} over the run; the {noun} of "
        f"{', '.join(names[:MAX_NAMES])}{more} {are} dominated by growth, {effect}. "
        "See docs/chaos.md."
    )


def read_growth(trial: FrozenTrial) -> StoredGrowth | None:
    """The growth that the trial itself reported, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``report_growth``.
    """

    def parse(fields: Fields) -> StoredGrowth:
        steps, run = fields.int_("steps"), fields.marked("run")
        by_step = {int(step): value for step, value in fields.marked("to_end").items()}
        for step in by_step:
            if not 0 <= step < steps:
                raise ValueError(f"to_end must be of steps below {steps}, got {short(step)}")
        total, damped = (Fields(run)[name] for name in ("total", "damped"))
        if not math.isnan(damped) and not 0 <= damped <= 1:
            raise ValueError(f"damped must be a number from 0 to 1, got {damped}")
        trust = fields.numbers("trust", 0.0, 1.0)
        dominated = fields.int_("dominated", most=steps)
        return StoredGrowth(total, steps, dict(sorted(by_step.items())), trust, dominated, damped)

    return read_report(trial, GROWTH_TO_END, parse)
