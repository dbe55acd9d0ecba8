"""Nested states as safetensors files: tensors, and the structure around them as JSON metadata.

None, booleans, strings, finite floats, ints of 64 bits and lists represent themselves; any other
value is an object with one entry, named by its kind:

    {"dict": [[key, value], …]}    {"tuple": [value, …]}    {"tensor": name}    {"array": name}
    {"int": "0x…"}                 {"float": "nan"}    {"complex": "1+2j"}
    {"set": [value, …]}            {"frozenset": [value, …]}    {"counter": {"dict": …}}

Instances of subclasses and NumPy scalars are stored as the plain values.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind

Keys = tuple[object, ...]  # the path to a value inside the state
Arrays = dict[str, "Tensor | np.ndarray[Any, Any]"]  # by their names in the structure

_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
}

_PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (bool, bool),
    (str, str.__str__),  # of an enumeration the value, not the name
    *((int, int), (float, float), (complex, complex)),
    *((list, list), (tuple, tuple), (deque, list)),
    *((set, set), (frozenset, frozenset)),
    *((Counter, Counter), (Mapping, dict)),
)

_NUMBERS: dict[str, type] = {"float": float, "complex": complex}
_SEQUENCES: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or of an unexpected kind."""


class UnreachableError(CheckpointError):
    """The artifact store cannot be read at the moment; the checkpoint may be intact."""


def encode(state: Any) -> bytes:
    """Encode a nested state as the bytes of a safetensors file.

    Args:
        state: Any nesting of mappings with str or int keys, lists, tuples, sets, None, bools,
            numbers and strs around tensors and NumPy arrays. ``decode`` returns tensors and
            parameters as contiguous tensors that share no memory and require no gradient, NumPy
            scalars as Python's (``np.float64`` as a float), named tuples as tuples, deques as
            lists, mappings other than a ``Counter`` as dicts, and instances of other subclasses as
            their base class. Everything else is unchanged.

    Raises:
        TypeError: If the state holds anything else, or a set an item that would not be hashable
            when decoded; the message names the path of the value, and what to do.
        CheckpointError: If the structure without the tensors exceeds 100 MB.

    Example:
        >>> import torch
        >>> decode(encode({"step": 3, "weights": (torch.ones(2), None)}))
        {'step': 3, 'weights': (tensor([1., 1.]), None)}
    """
    structure, arrays = _packed(state)
    try:
        copies = {name: _copied(array) for name, array in arrays.items()}
        return save(copies, {"state": structure})
    except SafetensorError as error:
        raise CheckpointError(f"state: cannot be stored: {error}") from error


def check(state: Any) -> None:
    """Raise the TypeError that ``encode`` would raise, without copying anything.

    Args:
        state: The state to encode later.

    Example:
        >>> from fractions import Fraction
        >>> check({"best": {"loss": Fraction(1, 3)}})
        Traceback (most recent call last):
        TypeError: best.loss: cannot store <class 'fractions.Fraction'>; convert it to a number,
        string, tensor, list, tuple, set or dict.
    """
    _packed(state)


def decode(data: bytes, device: torch.device | str | None = None) -> Any:
    """Decode a state from the bytes that ``encode`` returned.

    Args:
        data: The content of the file, which may be untrusted: nothing in it is executed.
        device: Device of all tensors; by default the CPU, since ``load_state_dict`` of a model or
            an optimizer moves them anyway.

    Raises:
        CheckpointError: If ``data`` does not come from ``encode``.
    """
    check_kind("data", data, bytes, "bytes")
    try:
        tensors = _loaded(data)  # validates the header that is read next
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        structure = json.loads(header["__metadata__"]["state"])
        return _unpack(structure, tensors, device)
    except (SafetensorError, KeyError, RecursionError, TypeError, ValueError) as error:
        message = f"expected a safetensors file with a state, got {len(data)} bytes: {error!r:.200}"
        raise CheckpointError(message) from error


def _packed(state: Any) -> tuple[str, Arrays]:
    """Return the structure as JSON, and the arrays that it names."""
    arrays: Arrays = {}
    try:
        return json.dumps(_pack(state, (), arrays), allow_nan=False), arrays
    except RecursionError as error:
        raise TypeError("state: contains itself or is nested too deeply.") from error


def _pack(value: Any, path: Keys, arrays: Arrays) -> Any:
    """Return the JSON value of ``value``; its tensors and arrays are added to ``arrays``."""
    value = _plain(value)
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**63 else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is complex:
        return {"complex": str(value)}
    if kind in (list, tuple):
        items = [_pack(item, (*path, i), arrays) for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind in (set, frozenset):  # sorted, so that the order is the same in every process
        _check_hashable(value, path)
        items = [_pack(item, path, arrays) for item in value]
        return {kind.__name__: sorted(items, key=json.dumps)}
    if kind is Counter:  # as in torch's MultiStepLR
        return {"counter": _pack(dict(value), path, arrays)}
    if kind is dict:
        pairs = ((_checked_key(_plain(key), path), item) for key, item in value.items())
        return {"dict": [[key, _pack(item, (*path, key), arrays)] for key, item in pairs]}
    _check_array(value, path)
    arrays[name := str(len(arrays))] = value
    return {"array" if kind is np.ndarray else "tensor": name}


def _check_array(value: Any, path: Keys) -> None:
    """Require a tensor or array that safetensors can hold, not of a subclass (it would be lost)."""
    kind = type(value)
    if kind in (Tensor, nn.Parameter):
        if value.is_meta or value.layout != torch.strided or value.dtype not in _DTYPES:
            found = f"{value.dtype}, {value.layout}, on {value.device}"
            raise TypeError(f"{_dotted(path)}: cannot store {kind} of {found}.")
    elif kind is np.ndarray:
        if not value.dtype.isnative or getattr(torch, value.dtype.name, None) not in _DTYPES:
            raise TypeError(f"{_dotted(path)}: cannot store {kind} of {value.dtype!r}.")
    else:
        raise TypeError(
            f"{_dotted(path)}: cannot store {kind}; convert it to a number, string, tensor, list, "
            "tuple, set or dict."
        )


def _plain(value: Any) -> Any:
    """Return ``value`` as it will be decoded, except for its items."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufcU":
        return value.item()
    for kind, plain in _PLAIN:
        if isinstance(value, kind):
            return plain(value)
    return value


def _unpack(node: Any, tensors: dict[str, Tensor], device: torch.device | str | None) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensors, device) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {_checked_key(key, ()): _unpack(item, tensors, device) for key, item in content}
    if kind == "tensor":
        return tensors[content].to(device)
    if kind == "array":
        return tensors[content].numpy()
    if kind == "counter":
        return Counter(_unpack(content, tensors, device))
    if kind == "int":
        return int(content, 16)
    if kind in _NUMBERS:
        return _NUMBERS[kind](content)
    return _SEQUENCES[kind](_unpack(item, tensors, device) for item in content)


def _checked_key(key: Any, path: Keys) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{_dotted(path)}: a key must be a str or an int, got {type(key)}.")
    return key  # type: ignore[no-any-return]


def _check_hashable(items: Iterable[Any], path: Keys) -> None:
    """Reject items of a set that would not be hashable when decoded."""
    for item in items:
        plain = _plain(item)
        if isinstance(plain, list | dict | set):
            raise TypeError(
                f"{_dotted(path)}: cannot store {type(item)} in a set, since it is decoded as a "
                f"{type(plain).__name__}; convert it to a tuple or a frozenset."
            )
        if isinstance(plain, tuple):
            _check_hashable(plain, path)


def _loaded(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except RuntimeError as error:  # from torch, for a shape that overflows
        raise ValueError(str(error)) from error


def _copied(array: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Return a contiguous copy on the CPU that shares no memory, as safetensors requires."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.copy("C"))
    return array.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path)) or "state"
