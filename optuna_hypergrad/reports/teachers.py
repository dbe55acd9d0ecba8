"""The teacher of a population, as it is handed from trial to trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, SLOTS, Teacher
from optuna_hypergrad.reports.attributes import own_decision, reading
from optuna_hypergrad.reports.keys import TEACHER

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DIGITS = 6  # significant ones: enough for weights, and half the bytes of exact floats


class Taught(NamedTuple):
    """A teacher, and the trials that it has learned from."""

    teacher: Teacher
    names: tuple[str, ...]
    """The parameters, in the order of the teacher's rows."""
    upto: int = 0
    """It has learned from the trials below this number …"""
    pending: tuple[int, ...] = ()
    """… but for these, which had not finished."""


def write_teacher(storage: BaseStorage, trial_id: int, number: int, taught: Taught) -> None:
    """Store a teacher with a running trial, for those who continue it."""
    teacher = taught.teacher
    stored: dict[str, Any] = {
        "trial": number,
        "names": [*taught.names],
        "keys": _rounded(teacher.keys),
        "values": _rounded(teacher.values),
        "mean_square": _significant(teacher.mean_square),
        "steps": teacher.steps,
        "activation": teacher.activation,
        "upto": taught.upto,
        "pending": [*taught.pending],
    }
    storage.set_trial_system_attr(trial_id, TEACHER, stored)


def read_teacher(number: int, system_attrs: Mapping[str, Any]) -> Taught | None:
    """The teacher among a trial's system attributes, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``write_teacher``.
    """
    stored = own_decision(system_attrs, number, TEACHER)
    if stored is None:
        return None
    with reading(number, TEACHER):
        names = tuple(map(str, stored["names"]))
        keys, values = (
            np.array(stored[part], dtype=float).reshape(len(names), SLOTS)
            for part in ("keys", "values")
        )
        if stored["activation"] not in ACTIVATIONS:
            raise ValueError(f"activation {stored['activation']!r}")
        return Taught(
            Teacher(
                keys,
                values,
                float(stored["mean_square"]),
                int(stored["steps"]),
                stored["activation"],
            ),
            names,
            int(stored["upto"]),
            tuple(int(n) for n in stored["pending"]),
        )


def _rounded(weights: np.ndarray[Any, Any]) -> list[list[float]]:
    return [[_significant(w) for w in row] for row in weights.tolist()]


def _significant(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
