"""Which learned hyperparameters are at work at which step, and which steps are left out.

Every learned trial parameter owns one column of the tangents, added when its window begins, so
columns of windows to come cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

from optuna_hypergrad.arguments import check_kind, checked_number
from optuna_hypergrad.autodiff.hparams import Key, RunHparams
from optuna_hypergrad.schedules import Schedule

Truncation = Literal["leading", "alternate"]


class Active(NamedTuple):
    """The columns that move at one step."""

    rows: list[int]
    derivatives: dict[Key, list[float]]  # by hyperparameter: ∂(its value)/∂λ, one entry per row


class Columns:
    """The columns of one run, in the order in which they begin.

    Args:
        hypers: The hyperparameters of the run.
        truncate: Fraction of the steps of each window, in [0, 1), at which tangents stand still.
        truncation: Which steps these are; see ``is_truncated``.
        share: The parameters that get columns, where other processes carry the rest; None for all.

    Raises:
        ValueError: If ``truncate`` or ``truncation`` is out of range, or ``share`` names what is
            not learned.
    """

    def __init__(
        self,
        hypers: RunHparams,
        truncate: float,
        truncation: Truncation,
        share: Collection[str] | None = None,
    ) -> None:
        checked_number("truncate", truncate, "lie in [0, 1)", lambda x: 0.0 <= x < 1.0)
        if truncation not in get_args(Truncation):
            raise ValueError(f"truncation must be one of {get_args(Truncation)}: {truncation!r}.")
        check_kind("share", share, Collection | None, "a collection of names")
        unknown = [name for name in share or () if name not in hypers.names]
        if unknown:
            raise ValueError(f"share: {unknown[0]!r} is not a learned parameter ({hypers.names}).")
        self._hypers, self._truncate, self._truncation = hypers, truncate, truncation
        self.names = [name for name in hypers.names if share is None or name in share]
        self.begun: dict[str, int] = {}  # row of each column that has begun
        self.taken_part: Counter[str] = Counter()  # steps that each parameter shaped

    @property
    def truncates(self) -> bool:
        """Whether steps are left out."""
        return self._truncate > 0.0

    @property
    def is_share(self) -> bool:
        """Whether learned parameters are left to other processes."""
        return len(self.names) < len(self._hypers.names)

    @property
    def rows(self) -> int:
        """The most rows that move at a step; one even without, so that all shares train alike."""
        return max(len(self.names), 1) if self._hypers.names else 0

    def begin(self, names: Collection[str]) -> None:
        """Give each of ``names`` that has none yet, and is to have one, a column."""
        for name in names:
            if name in self.names:
                self.begun.setdefault(name, len(self.begun))

    def advance(self, step: int) -> Active:
        """The columns that move at ``step``; to be called once a step."""
        learned = self._hypers.learned
        moving = [key for key, schedule in learned.items() if not self._truncated(schedule, step)]
        slopes = {key: self._hypers.slopes(key, step) for key in moving}
        shaping = dict.fromkeys(name for slope in slopes.values() for name in slope)
        self.begin(shaping)
        self.taken_part.update(shaping.keys())
        at_work = {name for key in moving for name in learned[key].names}
        names = [name for name in self.begun if name in at_work]
        rows = [self.begun[name] for name in names]
        return Active(rows, {k: [s.get(name, 0.0) for name in names] for k, s in slopes.items()})

    def _truncated(self, schedule: Schedule, step: int) -> bool:
        position, length = schedule.position(step, self._hypers.steps)
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
