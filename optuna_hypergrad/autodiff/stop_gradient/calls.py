"""What calls of torch's functions do with tensors, as far as it matters where gradients stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Results that are no tensors, or that say of a tensor how autograd sees it; switches.
# fmt: off
_OPAQUE = frozenset([
    "numpy", "__array__", "item", "tolist", "__float__", "__int__", "__bool__", "__index__",
    "__complex__", "__repr__", "__str__", "__format__", "__len__", "__deepcopy__", "__hash__",
    "__reduce_ex__", "__dlpack__", "__dlpack_device__", "__set__", "__contains__", "data_ptr",
    "size", "stride", "dim", "numel", "storage", "untyped_storage", "backward", "retain_grad",
    "requires_grad_", "share_memory_", "is_floating_point", "is_complex",
    "register_post_accumulate_grad_hook",
])
_WRITING = frozenset([
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__",
    "__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__",
])
# fmt: on
_DIFFERENTIABLE = tuple(
    getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag")
)


def is_opaque(func: Callable[..., Any]) -> bool:
    """Whether a call has no tensor as its result that depends on its arguments."""
    name = getattr(func, "__name__", "")
    return name in _OPAQUE or (name == "__get__" and func not in _DIFFERENTIABLE)


NORMALISING = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)
"""Calls that write into the running statistics that they get."""


def changed_in_place(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, Tensor | None]:
    """Whether a call writes into what it gets, and the tensor, if that is one alone."""
    name = getattr(func, "__name__", "")
    written = kwargs.get("out")
    if written is None:
        by_name = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
        if not by_name and kwargs.get("inplace") is not True:
            return False, None
        written = args[0] if args else None
    return True, written if isinstance(written, Tensor) else None
