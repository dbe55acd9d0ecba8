"""A nested state as one safetensors file: the tensors, and the structure around them as JSON.

The structure is in the file's metadata. None, booleans, strings, finite floats, ints of 64 bits
and lists stand for themselves; anything else is an object with one entry, named by its kind:

    {"dict": [[key, value], …]}    {"tuple": [value, …]}    {"tensor": name}    {"array": name}
    {"int": "0x…"}                 {"float": "nan"}    {"complex": "1+2j"}
    {"set": [value, …]}            {"frozenset": [value, …]}    {"counter": {"dict": …}}

What is of a subclass of these, or a number of numpy's, is stored as the plain value that it is.
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

Keys = tuple[object, ...]  # those that lead to a value inside the state
Arrays = dict[str, "Tensor | np.ndarray[Any, Any]"]  # by the name that the structure gives them

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


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or not what it is expected to be."""


class UnreachableError(CheckpointError):
    """The artifact store cannot be read at the moment; of the checkpoint nothing is known."""


def encode(state: Any) -> bytes:
    """A nested state as the bytes of a safetensors file.

    Args:
        state: Any nesting of mappings with str or int keys, lists, tuples, sets, None, bools,
            numbers and strs around tensors and numpy arrays. Tensors and parameters come back as
            plain tensors that are contiguous, share no memory and require no gradient; a number
            of numpy's as Python's (``np.float64`` as a float); a named tuple as a tuple, a deque
            as a list, every mapping but a ``Counter`` as a dict, and what is of another subclass as
            that which it is a subclass of. All else is as it was.

    Raises:
        TypeError: If the state holds anything else, or a set what would come back as something
            that no set can hold; it names the path of it, and what to do.
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
    """Raise the TypeError that ``encode`` would raise; nothing is copied.

    Args:
        state: What is to be encoded.

    Example:
        >>> from fractions import Fraction
        >>> check({"best": {"loss": Fraction(1, 3)}})
        Traceback (most recent call last):
        TypeError: best.loss: cannot store <class 'fractions.Fraction'>; convert it to a number,
        string, tensor, list, tuple, set or dict.
    """
    _packed(state)


def decode(data: bytes, device: torch.device | str | None = None) -> Any:
    """The state that ``encode`` gave ``data`` for.

    Args:
        data: The whole file. Nothing in it is executed, whoever wrote it.
        device: Where all tensors go; the CPU unless given. ``load_state_dict`` of a model or an
            optimizer moves them anyway.

    Raises:
        CheckpointError: If ``data`` is not what ``encode`` returns.
    """
    check_kind("data", data, bytes, "bytes")
    try:
        tensors = _loaded(data)  # checks the header that is read next
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        structure = json.loads(header["__metadata__"]["state"])
        return _unpack(structure, tensors, device)
    except (SafetensorError, KeyError, RecursionError, TypeError, ValueError) as error:
        message = f"expected a safetensors file with a state, got {len(data)} bytes: {error!r:.200}"
        raise CheckpointError(message) from error


def _packed(state: Any) -> tuple[str, Arrays]:
    """The structure as JSON, and what it names."""
    arrays: Arrays = {}
    try:
        return json.dumps(_pack(state, (), arrays), allow_nan=False), arrays
    except RecursionError as error:
        raise TypeError("state: contains itself or is nested too deeply.") from error


def _pack(value: Any, path: Keys, arrays: Arrays) -> Any:
    """The JSON that stands for ``value``; its tensors and arrays are added to ``arrays``."""
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
    if kind in (set, frozenset):  # in an order that does not depend on the process
        _check_hashable(value, path)
        items = [_pack(item, path, arrays) for item in value]
        return {kind.__name__: sorted(items, key=json.dumps)}
    if kind is Counter:  # of torch's MultiStepLR
        return {"counter": _pack(dict(value), path, arrays)}
    if kind is dict:
        pairs = ((_checked_key(_plain(key), path), item) for key, item in value.items())
        return {"dict": [[key, _pack(item, (*path, key), arrays)] for key, item in pairs]}
    return _named(value, path, arrays)


def _named(value: Any, path: Keys, arrays: Arrays) -> dict[str, str]:
    """What stands for a tensor or an array."""
    name, kind = str(len(arrays)), type(value)  # exactly, since a subclass would be lost
    if kind in (Tensor, nn.Parameter):
        _check_tensor(value, path)
    elif kind is np.ndarray:
        _check_array(value, path)
    else:
        raise TypeError(
            f"{_dotted(path)}: cannot store {kind}; convert it to a number, string, tensor, list, "
            "tuple, set or dict."
        )
    arrays[name] = value
    return {"array" if kind is np.ndarray else "tensor": name}


def _plain(value: Any) -> Any:
    """What comes back for ``value``: of Python's own kind where it is of a subclass of that."""
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
    match kind:
        case "dict":
            return {_checked_key(k, ()): _unpack(item, tensors, device) for k, item in content}
        case "tuple":
            return tuple(_unpack(item, tensors, device) for item in content)
        case "tensor":
            return tensors[content].to(device)
        case "array":
            return tensors[content].numpy()
        case "counter":
            return Counter(_unpack(content, tensors, device))
        case "set":
            return {_unpack(item, tensors, device) for item in content}
        case "frozenset":
            return frozenset(_unpack(item, tensors, device) for item in content)
        case "complex":
            return complex(content)
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
    raise ValueError(f"unknown kind {kind!r}")


def _checked_key(key: Any, path: Keys) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{_dotted(path)}: a key must be a str or an int, got {type(key)}.")
    return key  # type: ignore[no-any-return]


def _check_hashable(items: Iterable[Any], path: Keys) -> None:
    """Refuse members of a set that would come back as something that no set can hold."""
    for item in items:
        plain = _plain(item)
        if isinstance(plain, list | dict | set):
            raise TypeError(
                f"{_dotted(path)}: cannot store {type(item)} in a set, since it comes back as a "
                f"{type(plain).__name__}; convert it to a tuple or a frozenset."
            )
        if isinstance(plain, tuple):
            _check_hashable(plain, path)


def _loaded(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except RuntimeError as error:  # of torch, for a shape that overflows
        raise ValueError(str(error)) from error


def _check_tensor(tensor: Tensor, path: Keys) -> None:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise TypeError(f"{_dotted(path)}: cannot store {type(tensor)} of {kind}.")


def _check_array(array: np.ndarray[Any, Any], path: Keys) -> None:
    dtype = array.dtype
    if not dtype.isnative or getattr(torch, dtype.name, None) not in _DTYPES:
        raise TypeError(f"{_dotted(path)}: cannot store {type(array)} of {dtype!r}.")


def _copied(array: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """A copy on the CPU: contiguous and with memory of its own, as safetensors demands."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.copy("C"))
    return array.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path)) or "state"
