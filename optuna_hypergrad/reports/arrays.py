"""Arrays of hyperparameters and their hypergradients, as trials store them.

An array is one parameter of its trial, the mean of its entries, and system attributes: 32-bit
floats as base64, in pieces, since MySQL's TEXT holds 64 KB. The first piece is written last and
says how many there are, so that an array is stored as a whole or not at all.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import BaseTrial, FrozenTrial

from optuna_hypergrad.arguments import short
from optuna_hypergrad.reports.attributes import (
    ARRAY,
    ARRAY_GRADIENT,
    Fields,
    current_system_attrs,
    read_decision,
    read_report,
    write_report,
)

FloatArray = NDArray[np.float32]
PIECE = 24_000  # bytes of an attribute: 32,000 characters of base64
MOST_ENTRIES = 10_000_000


class StoredArray(NamedTuple):
    """An array that a trial suggested."""

    values: FloatArray
    low: float
    high: float
    log: bool


def write_array(trial: BaseTrial, name: str, array: StoredArray) -> None:
    """Store an array that a running trial suggests."""
    space = {"low": array.low, "high": array.high, "log": array.log}
    _write(trial, f"{ARRAY}:{name}", array.values, space)


def read_array(trial: BaseTrial, name: str) -> StoredArray | None:
    """An array that a trial suggested, or None; a retried trial repeats that of the failed one.

    Raises:
        StoredDataError: If the attributes were not written by ``write_array``.
    """
    key, attributes = f"{ARRAY}:{name}", current_system_attrs(trial)

    def parse(fields: Fields) -> StoredArray:
        low, high = fields.number("low"), fields.number("high")
        log = fields.choice("log", (True, False))
        return StoredArray(_values(attributes, key, fields), low, high, log)

    return read_decision(attributes, trial.number, key, parse)


def array_names(trial: BaseTrial) -> list[str]:
    """The names of a trial's arrays, in order."""
    return _names(current_system_attrs(trial), ARRAY)


def write_array_gradient(trial: BaseTrial, name: str, gradient: FloatArray) -> None:
    """Report the hypergradient of an array."""
    _write(trial, f"{ARRAY_GRADIENT}:{name}", gradient, {})


def read_array_gradient(trial: FrozenTrial, name: str) -> FloatArray | None:
    """The hypergradient that the trial itself reported of an array, or None.

    Raises:
        StoredDataError: If the attributes were not written by ``write_array_gradient``.
    """
    key = f"{ARRAY_GRADIENT}:{name}"
    return read_report(trial, key, lambda fields: _values(trial.system_attrs, key, fields))


def has_array_gradient(trial: BaseTrial) -> bool:
    """Whether a trial has reported the hypergradient of an array."""
    return bool(_names(current_system_attrs(trial), ARRAY_GRADIENT))


def checked_array_gradient(name: str, gradient: Any, shape: tuple[int, ...]) -> FloatArray:
    """A hypergradient of an array, from an array or a tensor on any device.

    Raises:
        ValueError: If it is not of numbers, or of another shape.
    """
    if hasattr(gradient, "detach"):  # a tensor
        gradient = gradient.detach().cpu().numpy()
    found = np.asarray(gradient)
    if found.dtype.kind not in "fiu" or found.shape != shape:
        what = f"shape {found.shape}" if found.dtype.kind in "fiu" else short(gradient)
        raise ValueError(f"gradient: {name!r} must have the array's shape {shape}, got {what}.")
    with np.errstate(over="ignore"):  # what 32 bits do not hold is a sign of divergence, too
        return found.astype(np.float32)


def _write(
    trial: BaseTrial, key: str, values: FloatArray, others: Mapping[str, str | float | bool]
) -> None:
    raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
    pieces = [raw[i : i + PIECE] for i in range(0, len(raw), PIECE)]
    first, *rest = [base64.b64encode(piece).decode() for piece in pieces]
    for i, text in enumerate(rest, start=1):
        write_report(trial, f"{key}:{i}", {"trial": trial.number, "values": text})
    fields = {"trial": trial.number, "shape": [*values.shape], "pieces": len(pieces), **others}
    write_report(trial, key, {**fields, "values": first})


def _values(attributes: Mapping[str, Any], key: str, first: Fields) -> FloatArray:
    shape = first.ints("shape", least=1)
    n = math.prod(shape)
    if n > MOST_ENTRIES:
        raise ValueError(f"shape must have at most {MOST_ENTRIES} entries, got {n}")
    texts = [first.text("values")]
    for i in range(1, first.int_("pieces", least=1, most=1 + 4 * n // PIECE)):
        texts.append(Fields(attributes.get(f"{key}:{i}")).text("values"))
    raw = b"".join(base64.b64decode(text, validate=True) for text in texts)
    if len(raw) != 4 * n:
        raise ValueError(f"values must be {4 * n} bytes, got {len(raw)}")
    return np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)


def _names(attributes: Mapping[str, Any], kind: str) -> list[str]:
    """Names of the arrays whose first piece is stored; the others have no shape."""
    prefix = f"{kind}:"
    return [
        key.removeprefix(prefix)
        for key, stored in attributes.items()
        if key.startswith(prefix) and isinstance(stored, Mapping) and "shape" in stored
    ]
