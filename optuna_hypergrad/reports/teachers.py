"""The teacher of a population, as trials store it."""

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


class Taught(NamedTuple):
    """A teacher, and the trials that it has learned from."""

    teacher: Teacher
    names: tuple[str, ...]  # of the parameters, in the order of the teacher's rows
    upto: int = 0  # it has learned from the trials below this number …
    pending: tuple[int, ...] = ()  # … except for these, which had not finished


def write_teacher(storage: BaseStorage, trial_id: int, number: int, taught: Taught) -> None:
    """Store a teacher with a running trial."""
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
    """The teacher among a trial's system attributes, or None; errors as ``read_segment``."""

    def parse(stored: Fields) -> Taught:
        names = stored.texts("names")
        keys = _weights(stored, "keys", len(names))
        teacher = Teacher(
            keys,
            _weights(stored, "values", *keys.shape),
            stored.number("mean_square", least=0.0),
            stored.int_("steps"),
            stored.choice("activation", ACTIVATIONS),
        )
        upto = stored.int_("upto", most=number)
        return Taught(teacher, names, upto, stored.trials("pending"))

    return read_decision(system_attrs, number, TEACHER, parse)


def _weights(stored: Fields, name: str, rows: int, slots: int | None = None) -> Array:
    """Weights by parameter and slot; as many slots as the first row has, by default."""
    table = stored.items(name)
    if len(table) != rows:
        raise ValueError(f"{name} must have {rows} rows, as names has, got {len(table)}")
    if slots is None:
        first = table[0] if table else None
        slots = len(first) if isinstance(first, list) and first else SLOTS
    for row in table:
        if not isinstance(row, list) or len(row) != slots:
            raise ValueError(f"{name} must have rows of {slots} numbers, got {row!r:.60}")
    weights = [[finite(name, weight) for weight in row] for row in table]
    return np.array(weights, dtype=float).reshape(rows, slots)


def _rounded(weights: Array) -> list[list[float]]:
    return [[_significant(weight) for weight in row] for row in weights.tolist()]


def _significant(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
