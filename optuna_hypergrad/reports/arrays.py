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
from optuna.trial import BaseTrial, FixedTrial

from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.arguments import short
from optuna_hypergrad.reports.attributes import (
    ARRAY,
    ARRAY_GRADIENT,
    Fields,
    current_system_attrs,
    read_report,
    reading,
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
    _write(trial, ARRAY, name, array.values, space)


def read_array(trial: BaseTrial, name: str) -> StoredArray | None:
    """An array that a trial suggested, or None.

    It is that of the trial whatever its number: a retried trial repeats the array of the failed
    one, and a trial that was copied to another study keeps its own.

    Raises:
        StoredDataError: If the attributes were not written by ``write_array``.
    """
    attributes = attributes_of(trial)
    stored = attributes.get(f"{ARRAY}:{name}")
    if stored is None:
        return None
    with reading(trial.number, f"{ARRAY}:{name}"):
        fields = Fields(stored)
        low, high = fields.number("low"), fields.number("high")
        log = fields.choice("log", (True, False))
        return StoredArray(_values(attributes, ARRAY, name, fields), low, high, log)


def array_names(trial: BaseTrial) -> list[str]:
    """The names of a trial's arrays."""
    return names_in(attributes_of(trial))


def names_in(attributes: Mapping[str, Any]) -> list[str]:
    """The names of the arrays in a trial's attributes."""
    prefix = f"{ARRAY}:"
    return [key.removeprefix(prefix) for key in attributes if key.startswith(prefix)]


def write_array_gradient(trial: BaseTrial, name: str, gradient: Array) -> None:
    """Report the hypergradient of an array; its largest entry is stored apart, in 64 bits."""
    finite = np.abs(gradient[np.isfinite(gradient)])
    scale = float(finite.max(initial=0.0)) or 1.0
    values = (gradient / scale).astype(np.float32)
    _write(trial, ARRAY_GRADIENT, name, values, {"scale": scale})


def read_array_gradient(trial: BaseTrial, name: str) -> Array | None:
    """The hypergradient that the trial itself reported of an array, or None.

    Raises:
        StoredDataError: If the attributes were not written by ``write_array_gradient``.
    """
    attributes = attributes_of(trial)

    def parse(fields: Fields) -> Array:
        scale = fields.number("scale", least=0.0)
        return scale * _values(attributes, ARRAY_GRADIENT, name, fields).astype(float)

    return read_report(trial, f"{ARRAY_GRADIENT}:{name}", parse)


def has_array_gradient(trial: BaseTrial) -> bool:
    """Whether a trial has itself reported the hypergradient of an array."""
    keys = (f"{ARRAY_GRADIENT}:{name}" for name in array_names(trial))
    return any(read_report(trial, key, lambda fields: fields) is not None for key in keys)


def as_array(argument: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Numbers of a shape from an array, a list, or a tensor of any kind.

    An array of one entry may be given as a number.

    Raises:
        ValueError: If it is not of numbers, or of another shape.
    """
    if hasattr(value, "detach"):  # a tensor; numpy has no bfloat16
        value = value.detach().to_dense().cpu().double().numpy()
    found = np.asarray(value)
    if math.prod(shape) == found.size == 1:
        found = found.reshape(shape)
    if found.dtype.kind not in "fiu" or found.shape != shape:
        what = f"shape {found.shape}" if found.dtype.kind in "fiu" else short(value)
        raise ValueError(f"{argument} must have the array's shape {shape}, got {what}.")
    return found.astype(float)


def attributes_of(trial: BaseTrial) -> Mapping[str, Any]:
    """System attributes, with what a ``FixedTrial`` stores as user attributes."""
    own = trial.user_attrs if isinstance(trial, FixedTrial) else {}
    return {**own, **current_system_attrs(trial)}


def _piece(kind: str, name: str, i: int) -> str:
    """The key of a piece after the first."""
    return f"{kind}_piece:{i}:{name}"


def _write(
    trial: BaseTrial, kind: str, name: str, values: FloatArray, others: Mapping[str, float]
) -> None:
    raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
    pieces = [raw[i : i + PIECE] for i in range(0, len(raw), PIECE)]
    first, *rest = [base64.b64encode(piece).decode() for piece in pieces]
    for i, text in enumerate(rest, start=1):
        write_report(trial, _piece(kind, name, i), {"values": text})
    fields = {"trial": trial.number, "shape": [*values.shape], "pieces": len(pieces), **others}
    write_report(trial, f"{kind}:{name}", {**fields, "values": first})


def _values(attributes: Mapping[str, Any], kind: str, name: str, first: Fields) -> FloatArray:
    shape = first.ints("shape", least=1)
    n = math.prod(shape)
    if n > MOST_ENTRIES:
        raise ValueError(f"shape must have at most {MOST_ENTRIES} entries, got {n}")
    texts = [first.text("values")]
    for i in range(1, first.int_("pieces", least=1, most=1 + 4 * n // PIECE)):
        texts.append(Fields(attributes.get(_piece(kind, name, i))).text("values"))
    raw = b"".join(base64.b64decode(text, validate=True) for text in texts)
    if len(raw) != 4 * n:
        raise ValueError(f"values must be {4 * n} bytes, got {len(raw)}")
    return np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)
