"""What calls of torch's functions do with tensors, as far as it matters where gradients stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

# Results that are no tensors, or that say of a tensor how autograd sees it; switches.
_OPAQUE = frozenset(
    "numpy __array__ item tolist __float__ __int__ __bool__ __index__ __complex__ __repr__ __str__ "
    "__format__ __len__ __deepcopy__ __reduce_ex__ __dlpack__ __dlpack_device__ __set__ __hash__ "
    "__contains__ data_ptr size stride dim numel storage untyped_storage backward requires_grad_ "
    "retain_grad share_memory_ register_post_accumulate_grad_hook is_floating_point is_complex "
    "_set_grad_enabled".split()
)
_DIFFERENTIABLE = tuple(
    getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag")
)
_WRITING = frozenset(
    "__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__ "
    "__ior__ __ixor__ __ilshift__ __irshift__".split()
)


def is_opaque(func: Callable[..., Any]) -> bool:
    """Whether a call has no tensor as its result that depends on its arguments."""
    name = getattr(func, "__name__", "")
    return name in _OPAQUE or (name == "__get__" and func not in _DIFFERENTIABLE)


def changed_in_place(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The tensor that a call writes into, if so."""
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]  # type: ignore[no-any-return]
    name = getattr(func, "__name__", "")
    by_name = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
    if (by_name or kwargs.get("inplace") is True) and args and isinstance(args[0], Tensor):
        return args[0]
    return None
