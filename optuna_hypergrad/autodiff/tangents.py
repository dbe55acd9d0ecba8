"""Which tangents move at which step.

Each learned trial parameter λ has one tangent ∂w/∂λ, a row of Z, which is added when the parameter
first shapes a value, so windows that have not begun cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

from optuna_hypergrad.arguments import check_choice, check_kind, checked_number
from optuna_hypergrad.autodiff.hparams import Key, RunHparams

Truncation = Literal["leading", "alternate"]


class ActiveTangents(NamedTuple):
    """The tangents that move at one step."""

    rows: list[int]
    derivatives: dict[Key, list[float]]  # ∂h/∂λ by hyperparameter, one entry per row


class TangentSchedule:
    """The tangents of one run, numbered in the order in which they begin.

    Args:
        hypers: The hyperparameters of the run.
        truncate: Fraction of the steps of each window, in [0, 1), at which tangents stand still.
        truncation: Which steps these are; see ``is_truncated``.
        share: Parameters to propagate here, if other processes propagate the rest; None for all.

    Raises:
        ValueError: If ``truncate`` or ``truncation`` is out of range, or ``share`` contains a name
            that is not learned.
    """

    def __init__(
        self,
        hypers: RunHparams,
        truncate: float,
        truncation: Truncation,
        share: Collection[str] | None = None,
    ) -> None:
        checked_number("truncate", truncate, "lie in [0, 1)", lambda x: 0.0 <= x < 1.0)
        check_choice("truncation", truncation, get_args(Truncation))
        check_kind("share", share, Collection | None, "a collection of names")
        unknown = [name for name in share or () if name not in hypers.names]
        if unknown:
            raise ValueError(f"share: {unknown[0]!r} is not a learned parameter ({hypers.names}).")
        self._hparams, self._truncate, self._truncation = hypers, truncate, truncation
        self.names = [name for name in hypers.names if share is None or name in share]
        self.rows: dict[str, int] = {}  # by parameter whose tangent has begun
        self.n_steps = dict.fromkeys(self.names, 0)  # at which each parameter shaped a value

    @property
    def is_truncated(self) -> bool:
        """Whether tangents stand still at some steps."""
        return self._truncate > 0.0

    @property
    def is_share(self) -> bool:
        """Whether other processes propagate some of the learned parameters."""
        return len(self.names) < len(self._hparams.names)

    @property
    def max_rows(self) -> int:
        """Most rows that move at a step; at least one, so that all shares train alike."""
        return max(len(self.names), 1) if self._hparams.names else 0

    def restarted(self) -> TangentSchedule:
        """The same schedule before its first step."""
        return TangentSchedule(self._hparams, self._truncate, self._truncation, self.names)

    def begin(self, names: Collection[str]) -> None:
        """Number the tangents of ``names`` that have not begun."""
        for name in names:
            if name in self.names:
                self.rows.setdefault(name, len(self.rows))

    def active_at(self, step: int) -> ActiveTangents:
        """The tangents that move at ``step``; to be called once a step, in order."""
        learned = self._hparams.learned
        moving = [key for key in learned if not self._is_truncated_at(key, step)]
        derivatives = {key: self._hparams.derivatives(key, step) for key in moving}
        shaping = dict.fromkeys(name for one in derivatives.values() for name in one)
        self.begin(shaping)
        for name in shaping:
            if name in self.names:
                self.n_steps[name] += 1
        in_effect = {name for key in moving for name in self._hparams.names_of(key)}
        names = [name for name in self.rows if name in in_effect]
        return ActiveTangents(
            [self.rows[name] for name in names],
            {key: [one.get(name, 0.0) for name in names] for key, one in derivatives.items()},
        )

    def _is_truncated_at(self, key: Key, step: int) -> bool:
        if not self.is_truncated:
            return False
        position, length = self._hparams.learned[key].position(step, self._hparams.steps)
        return is_truncated(position, length, self._truncate, self._truncation)


def is_truncated(position: int, length: int, ratio: float, mode: Truncation) -> bool:
    """Whether tangents stand still at one step of a window.

    The two modes of the paper (its code calls this pruning). ``"leading"`` leaves out the first
    ``ratio`` of the window's steps. ``"alternate"`` leaves out every ⌊1/ratio⌋-th step, the first
    included; with a ratio of at least 0.5 it leaves out all but every ⌊1/(1 − ratio)⌋-th.

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
