"""Which learned hyperparameters are at work at which step, and which steps are left out.

Every learned trial parameter owns one column of the tangents, added when its window begins, so
columns of windows to come cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, get_args

from optuna_hypergrad.autodiff.updates import Hyper
from optuna_hypergrad.schedules import Schedule

Truncation = Literal["leading", "alternate"]


class Active(NamedTuple):
    """The columns that move at one step."""

    rows: list[int]
    derivatives: dict[str, list[float]]  # by hyperparameter: ∂(its value)/∂λ, one entry per row


class Columns:
    """The columns of one run, in the order in which they begin.

    Args:
        hypers: The update's hyperparameters.
        learn: Names of the trial parameters to differentiate; None for those of all schedules.
        steps: Horizon of the run.
        truncate: Fraction of the steps of each window, in [0, 1), at which tangents stand still.
        truncation: Which steps these are; see ``is_truncated``.

    Raises:
        ValueError: If two schedules share a parameter name, ``learn`` names none of theirs, or
            ``truncate`` or ``truncation`` is out of range.
    """

    def __init__(
        self,
        hypers: Mapping[str, Hyper],
        learn: Collection[str] | None,
        steps: int,
        truncate: float,
        truncation: Truncation,
    ) -> None:
        schedules = {name: h for name, h in hypers.items() if isinstance(h, Schedule)}
        names = [name for schedule in schedules.values() for name in schedule.names]
        self.names = _checked_names(names, learn)
        self.ordered = [name for name in names if name in self.names]
        self._learned = {
            hyper: schedule
            for hyper, schedule in schedules.items()
            if any(name in self.names for name in schedule.names)
        }
        if not 0.0 <= truncate < 1.0:
            raise ValueError(f"truncate must lie in [0, 1), got {truncate}.")
        if truncation not in get_args(Truncation):
            raise ValueError(f"truncation must be one of {get_args(Truncation)}: {truncation!r}.")
        self._steps, self._truncate, self._truncation = steps, truncate, truncation
        self.begun: dict[str, int] = {}  # row of each column that has begun
        self.taken_part: Counter[str] = Counter()  # steps that each parameter shaped

    @property
    def learned(self) -> Collection[str]:
        """The hyperparameters that have a column."""
        return self._learned.keys()

    def advance(self, step: int) -> Active:
        """The columns that move at ``step``; to be called once a step."""
        moving = {h: s for h, s in self._learned.items() if not self._is_truncated(s, step)}
        slopes = {hyper: self._slopes(schedule, step) for hyper, schedule in moving.items()}
        for slope in slopes.values():
            for name in slope:
                self.begun.setdefault(name, len(self.begun))
                self.taken_part[name] += 1
        at_work = {name for schedule in moving.values() for name in schedule.names}
        names = [name for name in self.begun if name in at_work]
        rows = [self.begun[name] for name in names]
        return Active(rows, {h: [s.get(name, 0.0) for name in names] for h, s in slopes.items()})

    def _slopes(self, schedule: Schedule, step: int) -> dict[str, float]:
        gradient = schedule.gradient(step, self._steps)
        pairs = zip(schedule.names, gradient.tolist(), strict=True)
        return {name: slope for name, slope in pairs if slope and name in self.names}

    def _is_truncated(self, schedule: Schedule, step: int) -> bool:
        position, length = schedule.position(step, self._steps)
        return is_truncated(position, length, self._truncate, self._truncation)


def is_truncated(position: int, length: int, ratio: float, mode: Truncation) -> bool:
    """Whether tangents stand still at one step of a window.

    The two modes of the paper (its code calls this pruning). ``"leading"`` leaves out the first
    ``ratio`` of the window's steps. ``"alternate"`` leaves out every ⌊1/ratio⌋-th step, the first
    included, or from a half on keeps every ⌊1/(1 − ratio)⌋-th.

    Args:
        position: Steps of the window before this one.
        length: Steps of the window.
        ratio: Fraction of steps to leave out, in [0, 1).
        mode: ``"leading"`` or ``"alternate"``.

    Example:
        >>> "".join("-+"[is_truncated(i, 6, 1 / 3, "leading")] for i in range(6))
        '++----'
        >>> "".join("-+"[is_truncated(i, 6, 1 / 3, "alternate")] for i in range(6))
        '+--+--'
        >>> "".join("-+"[is_truncated(i, 6, 2 / 3, "alternate")] for i in range(6))
        '-++-++'
    """
    if mode == "leading":
        return position < _floor(ratio * length)
    if ratio < 0.5:
        return ratio > 0 and position % _floor(1 / ratio) == 0
    return position % _floor(1 / (1 - ratio)) != 0


def _floor(value: float) -> int:
    return int(value + 1e-9)  # 1/(1 − 0.9) is a rounding error short of 10


def _checked_names(names: list[str], learn: Collection[str] | None) -> frozenset[str]:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"update: two schedules share the parameter {repeated[0]!r}.")
    if isinstance(learn, str):
        raise ValueError(f"learn must be a collection of names, got the string {learn!r}.")
    unknown = [name for name in learn or () if name not in names]
    if unknown:
        raise ValueError(f"learn: {unknown[0]!r} is not a parameter of a schedule ({names}).")
    return frozenset(names if learn is None else learn)
