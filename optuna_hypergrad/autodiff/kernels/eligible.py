"""Which calls the operations of this folder answer for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def eligible(*tensors: Tensor) -> bool:
    """Whether an operation on ``tensors`` is to be differentiated, and is none of the odd ones.

    Half precision, mixed or complex numbers, autocast, subclasses of tensors and the transforms of
    ``torch.func`` are left to torch.
    """
    dtypes = {t.dtype for t in tensors}
    return (
        plain(*tensors)
        and (dtypes == {torch.float32} or dtypes == {torch.float64})
        and not torch.is_autocast_enabled(tensors[0].device.type)
    )


def plain(*tensors: Tensor) -> bool:
    """The same for operations that do not care about precision or autocast."""
    return (
        torch.is_grad_enabled()
        and {type(t) for t in tensors} <= {Tensor, nn.Parameter}
        and not torch._C._are_functorch_transforms_active()
    )
