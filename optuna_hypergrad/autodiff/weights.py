"""A model's learned weights as one vector, and the gradient of a loss in the same shape."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.parameter import is_lazy

from optuna_hypergrad.arguments import check_kind

Gradients = Sequence[Tensor | None]  # one per parameter; None where the loss does not depend on it
HasGrad = tuple[bool, ...]  # one per parameter: whether the loss depends on it

# At every step, weights are compared: numpy would take three times as long, and torch six times.
_memcmp = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class FlatWeights:
    """The parameters of a model that require a gradient, read and written as one vector.

    Tied parameters count once; those with ``requires_grad=False`` stay out. The model itself
    always holds the current weights, so it can be used and inspected at any moment.

    Raises:
        ValueError: If no parameter requires a gradient, they differ in dtype or device, or
            are neither dense nor of float32 or float64, or have no shape yet (lazy modules).
    """

    def __init__(self, model: nn.Module) -> None:
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("model: none of its parameters requires a gradient.")
        self.named, self.names, self.parameters = named, list(named), list(named.values())
        self.frozen = {name: p for name, p in model.named_parameters() if name not in named}
        for name, p in named.items():
            _check_parameter(name, p)
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise ValueError(f"model: its parameters differ in dtype or device: {kinds}.")
        self.device = self.parameters[0].device
        self._sizes = [p.numel() for p in self.parameters]

    def __len__(self) -> int:
        """Number of weights, D."""
        return sum(self._sizes)

    def read(self) -> Tensor:
        """A copy of the weights, shape (D,)."""
        with torch.no_grad():
            joined: Tensor = _flatten_dense_tensors(self.parameters)  # type: ignore[no-untyped-call]
        # Torch makes a copy of several, and a view of one.
        return joined if len(self.parameters) > 1 else joined.detach().clone()

    def write(self, vector: Tensor) -> None:
        """Give the model the weights in ``vector``."""
        with torch.no_grad():
            parts = _unflatten_dense_tensors(vector, self.parameters)  # type: ignore[no-untyped-call]
            torch._foreach_copy_([*self.parameters], parts)
        torch.clear_autocast_cache()  # of copies in half precision, where all runs under autocast

    def check_unchanged(self, vector: Tensor, culprit: str) -> None:
        """Raise a ValueError where the model's weights are no longer those in ``vector``.

        Args:
            vector: The weights that the model was given, shape (D,).
            culprit: The argument whose function has run since.
        """
        if self._holds(vector):
            return
        for name, p, values in zip(self.names, self.parameters, self.split(vector), strict=True):
            if not torch.equal(p, values) and not torch.equal(p.nan_to_num(), values.nan_to_num()):
                raise ValueError(
                    f"{culprit}: it changed the weights {name!r} of the model, which only the "
                    "update may change. To keep weights within bounds, use Projected(update, "
                    "model, projection) of optuna_hypergrad.autodiff."
                )

    def _holds(self, vector: Tensor) -> bool:
        """Whether the model's weights are those in ``vector``, bit for bit."""
        if self.device.type != "cpu":  # which waits for each comparison
            return torch.equal(self.read(), vector)
        if not vector.is_contiguous() or vector.nbytes != sum(p.nbytes for p in self.parameters):
            return False
        place = vector.data_ptr()
        for p in self.parameters:
            if not p.is_contiguous() or _memcmp(p.data_ptr(), place, p.nbytes):
                return False
            place += p.nbytes
        return True

    def check_trainable(self) -> None:
        """Raise a ValueError where other parameters require a gradient than when the run began."""
        changed = [name for name, p in self.named.items() if not p.requires_grad]
        changed += [name for name, p in self.frozen.items() if p.requires_grad]
        if changed:
            raise ValueError(
                f"model: requires_grad of {changed[0]!r} was changed during the run. Let all "
                "parameters that are ever to be trained require a gradient from the start, and put "
                "those that begin later into a group of ParameterGroups whose lr is a Schedule "
                "with windows of 0.0."
            )

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Vectors of shape (…, D) as one view for each parameter, shape (…, *parameter)."""
        batch = vectors.shape[:-1]
        parts = torch.split(vectors, self._sizes, dim=-1)
        pairs = zip(parts, self.parameters, strict=True)
        return [part.view((*batch, *p.shape)) for part, p in pairs]

    def join(self, tensors: Sequence[Tensor | None], batch: Sequence[int] = ()) -> Tensor:
        """One tensor for each parameter as vectors, shape (*batch, D); None counts as zero."""
        layouts = [None if tensor is None else tensor.layout for tensor in tensors]
        for name, layout in zip(self.names, layouts, strict=True):
            if layout is not None and layout != torch.strided:
                raise ValueError(
                    f"model: the gradient of {name} is sparse, expected a dense one; build its "
                    "nn.Embedding with sparse=False."
                )
        if not batch and None not in layouts:
            joined: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
            return joined.detach()
        parts = [
            p.new_zeros((*batch, p.numel())) if t is None else t.detach().reshape(*batch, p.numel())
            for t, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def grad_mask(self, has_grad: HasGrad) -> Tensor | None:
        """Which entries the loss depends on, shape (D,); None where these are all."""
        if all(has_grad):
            return None
        pairs = zip(self._sizes, has_grad, strict=True)
        return torch.cat([torch.full((n,), flag, device=self.device) for n, flag in pairs])


def replaced(function: str, named: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> Tensor:
    """All weights as one vector, shape (D,), some of them new.

    Args:
        function: The argument whose function gave the new ones, for messages.
        named: All weights by name, in order.
        chosen: The new ones.

    Raises:
        ValueError: If a new one is not among the weights, or has another shape.
    """
    unknown = [name for name in chosen if name not in named]
    if unknown:
        raise ValueError(f"{function}: {unknown[0]!r} is not a learned weight ({list(named)}).")
    for name, weight in chosen.items():
        if weight.shape != named[name].shape:
            raise ValueError(
                f"{function}: {name} must have shape {tuple(named[name].shape)}, got "
                f"{tuple(weight.shape)}."
            )
    return torch.cat([{**named, **chosen}[name].reshape(-1) for name in named])


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if parameter._post_accumulate_grad_hooks:
        raise ValueError(
            f"model: {name} has a hook of register_post_accumulate_grad_hook, which is called "
            "where gradients are added up in .grad; here they are not. Use register_hook, or an "
            "update."
        )
    if is_lazy(parameter):
        raise ValueError(
            f"model: {name} has no shape yet; call the model once on a batch, so that its lazy "
            "modules make their parameters."
        )
    if parameter.layout != torch.strided:
        raise ValueError(f"model: {name} is {parameter.layout}, expected a dense parameter.")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model: {name} is {parameter.dtype}, expected float32 or float64; for half precision, "
            "use torch.autocast in the loss function."
        )
