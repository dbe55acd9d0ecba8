"""The teacher of a population, as it is handed from trial to trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from optuna.storages import BaseStorage

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, SLOTS, Teacher
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports.attributes import (
    TEACHER,
    Fields,
    finite,
    read_decision,
    write_decision,
)

DIGITS = 6  # significant ones: enough for weights, and half the bytes of exact floats
HEAVIEST = 1e6  # no weight comes there in the steps of any study


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
    write_decision(storage, trial_id, TEACHER, stored)


def read_teacher(number: int, system_attrs: Mapping[str, Any]) -> Taught | None:
    """The teacher among a trial's system attributes, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``write_teacher``.
    """

    def parse(stored: Fields) -> Taught:
        names = stored.texts("names")
        teacher = Teacher(
            _weights(stored, "keys", len(names)),
            _weights(stored, "values", len(names)),
            stored.number("mean_square", least=0.0),
            stored.int_("steps"),
            stored.choice("activation", ACTIVATIONS),
        )
        upto = stored.int_("upto", most=number)
        return Taught(teacher, names, upto, stored.trials("pending"))

    return read_decision(system_attrs, number, TEACHER, parse)


def _weights(stored: Fields, name: str, rows: int) -> Array:
    """Weights by parameter and slot."""
    table = [_row(name, row) for row in stored.items(name)]
    if len(table) != rows:
        raise ValueError(f"{name} must have {rows} rows, as names has, got {len(table)}")
    return np.array(table, dtype=float).reshape(rows, SLOTS)


def _row(name: str, row: Any) -> list[float]:
    if not isinstance(row, list) or len(row) != SLOTS:
        raise ValueError(f"{name} must have rows of {SLOTS} numbers, got {row!r:.60}")
    return [finite(name, weight, -HEAVIEST, HEAVIEST) for weight in row]


def _rounded(weights: np.ndarray[Any, Any]) -> list[list[float]]:
    return [[_significant(w) for w in row] for row in weights.tolist()]


def _significant(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
