"""A nested state as one safetensors file: the tensors, and the structure around them as JSON.

The structure is in the file's metadata. None, booleans, strings, finite floats, ints of 64 bits
and lists stand for themselves; anything else is an object with one entry, named by its kind:

    {"dict": [[key, value], …]}    {"tuple": [value, …]}    {"tensor": name}    {"array": name}
    {"int": "0x…"}                 {"float": "nan"}    {"counter": {"dict": …}}
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind

Keys = tuple[object, ...]  # those that lead to a value inside the state

_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
}


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or not what it is expected to be."""


class UnreachableError(CheckpointError):
    """The artifact store cannot be read at the moment; of the checkpoint nothing is known."""


def encode(state: Any) -> bytes:
    """A nested state as the bytes of a safetensors file.

    Args:
        state: Any nesting of dicts and Counters with str or int keys, lists, tuples, None, bools,
            ints, floats and strs around tensors and numpy arrays. All come back as they were,
            except that tensors and parameters come back as plain tensors that are contiguous,
            share no memory and require no gradient, and an ``OrderedDict`` as a dict.

    Raises:
        TypeError: If the state holds anything else; it names the path of it.
        CheckpointError: If the structure without the tensors exceeds 100 MB.

    Example:
        >>> import torch
        >>> decode(encode({"step": 3, "weights": (torch.ones(2), None)}))
        {'step': 3, 'weights': (tensor([1., 1.]), None)}
    """
    tensors: dict[str, Tensor] = {}
    try:
        structure = json.dumps(_pack(state, (), tensors), allow_nan=False)
        return save(tensors, {"state": structure})
    except RecursionError as error:
        raise TypeError("state: contains itself or is nested too deeply.") from error
    except SafetensorError as error:
        raise CheckpointError(f"state: cannot be stored: {error}") from error


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


def _pack(value: Any, path: Keys, tensors: dict[str, Tensor]) -> Any:
    """The JSON that stands for ``value``; its tensors are added to ``tensors``."""
    kind = type(value)  # exactly, since a subclass would come back as its parent
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**63 else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind in (list, tuple):
        items = [_pack(item, (*path, i), tensors) for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is Counter:  # of torch's MultiStepLR
        return {"counter": _pack(dict(value), path, tensors)}
    if kind in (dict, OrderedDict):
        pairs = ((_checked_key(key, path), item) for key, item in value.items())
        return {"dict": [[key, _pack(item, (*path, key), tensors)] for key, item in pairs]}
    name = str(len(tensors))
    if kind in (Tensor, nn.Parameter):
        tensors[name] = _copied(value, path)
        return {"tensor": name}
    if kind is np.ndarray:
        tensors[name] = _converted(value, path)
        return {"array": name}
    raise TypeError(f"{_dotted(path)}: cannot store {kind}.")


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
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
    raise ValueError(f"unknown kind {kind!r}")


def _checked_key(key: Any, path: Keys) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{_dotted(path)}: a key must be a str or an int, got {type(key)}.")
    return key  # type: ignore[no-any-return]


def _loaded(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except RuntimeError as error:  # of torch, for a shape that overflows
        raise ValueError(str(error)) from error


def _copied(tensor: Tensor, path: Keys) -> Tensor:
    """A copy on the CPU: contiguous and with memory of its own, as safetensors demands."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise TypeError(f"{_dotted(path)}: cannot store {type(tensor)} of {kind}.")
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _converted(array: np.ndarray[Any, Any], path: Keys) -> Tensor:
    dtype = array.dtype
    if not dtype.isnative or getattr(torch, dtype.name, None) not in _DTYPES:
        raise TypeError(f"{_dotted(path)}: cannot store {type(array)} of {dtype!r}.")
    return torch.from_numpy(array.copy("C"))


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path)) or "state"
