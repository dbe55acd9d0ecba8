"""What a loss computes where gradients are stopped, recorded as a function of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from optuna_hypergrad.autodiff.stop_gradient.switch import (
    NORMALISING,
    OpaqueError,
    StopState,
    changed_in_place,
    declared,
    stopped,
)

Call = Callable[..., Any]
_PLAIN_ROWS = {"padding_idx": None, "scale_grad_by_freq": False}
original_apply = Function.__dict__["apply"]


@dataclass(eq=False)
class Recorder:
    """Answers calls of torch's whose arguments or results have to do with what is stopped.

    What is detached, or computed without gradients, is for the user's code what it is in torch: a
    tensor that requires no gradient. Beside it, the same value is kept as a function of the weights
    (attached), and takes its place where a later operation uses it.

    Args:
        stops: Whether gradients stop; learns here whether any do.
        attached: By the id of a tensor: it, so that the id stays its own, its version, and its
            attached value.
        no_grad: Whether the user's code has turned gradients off.
    """

    stops: StopState
    attached: dict[int, tuple[Tensor, int, Tensor]]
    no_grad: bool = False

    def operation(self, func: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that may have to do with what is stopped."""
        stopping = self.no_grad and not torch.is_grad_enabled()
        if not stopping and not torch.is_grad_enabled():
            return func(*args, **kwargs)  # inside of a function of torch's own
        leaves, spec = tree_flatten((args, kwargs))
        attached = [self.attached_to(leaf, stopping) for leaf in leaves]
        writes, target = changed_in_place(func, args, kwargs)
        if all(value is None for value in attached) or (writes and target is None):
            return func(*args, **kwargs)
        needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
        if target is not None:
            return self._in_place(func, target, leaves, attached, spec, needs_grad and not stopping)
        if needs_grad and not stopping:
            self.stops.found = True
            return _called(func, leaves, attached, spec)
        # The graph keeps buffers and the like, which may be written into later: it gets copies. It
        # keeps what a normalisation reads, too, but that has to write into the original.
        if func not in NORMALISING:
            leaves = [x.clone() if isinstance(x, Tensor) and x.is_leaf else x for x in leaves]
        with torch.enable_grad():
            results = _called(func, leaves, attached, spec)
        places = {v.untyped_storage().data_ptr() for v in attached if v is not None}
        tensors = [r for r in tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad]
        if any(r.untyped_storage().data_ptr() in places for r in tensors):
            # Views of what they come from: writing into them changes both.
            with torch.no_grad():
                plain = func(*args, **kwargs)
            tree_map(self.remember, plain, results)
            return plain
        return tree_map(self._plain, results)

    def _in_place(
        self,
        func: Call,
        target: Tensor,
        leaves: list[Any],
        attached: list[Any],
        spec: Any,
        live: bool,
    ) -> Any:
        """An operation that writes into a tensor; ``live`` where gradients flow through it."""
        args, kwargs = tree_unflatten(leaves, spec)
        current = self.attached_to(target, False)
        if current is None and (target.requires_grad or live):
            # Weights, which nothing may write into, or what autograd itself follows.
            self.stops.found |= live
            others = [None if x is target else v for x, v in zip(leaves, attached, strict=True)]
            return _called(func, leaves, others, spec)
        with torch.enable_grad():
            copy = (target if current is None else current).clone()
            if kwargs.get("out") is target:  # autograd does not follow it there
                result = copy = _called(partial(_returned, func), leaves, attached, spec)
            else:
                others = [copy if x is target else v for x, v in zip(leaves, attached, strict=True)]
                result = _called(func, leaves, others, spec)
        if live or target.requires_grad:
            self.stops.found |= live
            result = func(*args, **kwargs)
        else:
            with torch.no_grad():
                if copy.shape == target.shape:
                    target.copy_(copy)  # not computed again: it may draw random numbers
                else:
                    func(*args, **kwargs)
        self.remember(target, copy)
        return None if result is None else target

    def gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``torch.autograd.grad`` within the loss."""
        active, self.stops.active = self.stops.active, True
        try:
            if kwargs.get("create_graph") or (len(args) > 4 and args[4]):
                return torch.autograd.grad(*args, **kwargs)
            with torch.enable_grad():
                options = {**kwargs, "create_graph": True, "retain_graph": True}
                gradients = torch.autograd.grad(*args[:3], **options)
        finally:
            self.stops.active = active
        return tuple(g if g is None else self._plain(stopped(self.stops, g)) for g in gradients)

    def gumbel_softmax(self, logits: Tensor, **kwargs: Any) -> Tensor:
        """Its one-hot result, by torch's formula; torch detaches where this mode cannot see it."""
        with self.stops.recording():
            soft = F.gumbel_softmax(logits, **{**kwargs, "hard": False})
            index = soft.max(kwargs.get("dim", -1), keepdim=True)[1]
            hard = torch.zeros_like(logits).scatter_(kwargs.get("dim", -1), index, 1.0)
            return hard - soft.detach() + soft

    def normal(self, mean: Any, std: Tensor, **kwargs: Any) -> Tensor:
        """Samples, which move with their mean and deviation; torch gives them no derivative."""
        plain = torch.normal(mean, std, **kwargs)
        noise = (plain - mean) / std
        of_mean, of_std = self.attached_to(mean, True), self.attached_to(std, True)
        with torch.enable_grad():
            mean = mean if of_mean is None else of_mean
            self.remember(plain, mean + (std if of_std is None else of_std) * noise)
        return plain

    def embedding(self, index: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
        """Rows of a table whose gradient leaves out the padding, or is divided by frequencies."""
        plain = {**kwargs, **_PLAIN_ROWS}
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return self.operation(F.embedding, (index, weight), plain)  # type: ignore[no-any-return]
        rows = F.embedding(index, weight, **plain)
        share = torch.ones_like(index, dtype=rows.dtype)
        if kwargs.get("scale_grad_by_freq"):
            share = share / torch.bincount(index.flatten(), minlength=len(weight))[index]
        if (padding := kwargs.get("padding_idx")) is not None:
            share = share.masked_fill(index == padding % len(weight), 0.0)
        return stopped(self.found(), rows, rows * share[..., None])

    def function(self, cls: type[Function], args: tuple[Any, ...]) -> Any:
        """``cls.apply(*args)`` for a ``torch.autograd.Function`` of the user's."""
        stopping = self.no_grad and not torch.is_grad_enabled()
        if not stopping and not torch.is_grad_enabled():
            return original(cls, args)
        attached = [self.attached_to(arg, stopping) for arg in args]
        needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in args)
        if not needs_grad and all(value is None for value in attached):
            return original(cls, args)
        inputs = tuple(x if v is None else v for x, v in zip(args, attached, strict=True))
        state = torch.get_rng_state()
        try:
            results = declared(cls, inputs, self.found(), self._latest)
        except OpaqueError:  # its own backward is differentiated, which the preflight checks
            torch.set_rng_state(state)
            return original(cls, args)
        return results if needs_grad and not stopping else tree_map(self._plain, results)

    def found(self) -> StopState:
        self.stops.found = True
        return self.stops

    def attached_to(self, value: Any, stopping: bool) -> Tensor | None:
        """The value as a function of the weights, where that is more than torch sees of it."""
        if not isinstance(value, Tensor):
            return None
        _, version, attached = self.attached.get(id(value), (None, None, None))
        if attached is not None and version == value._version:
            leaf = value.requires_grad and not stopping  # made a leaf after it was detached
            return stopped(self.stops, attached, value) if leaf else attached
        return stopped(self.stops, value) if stopping and value.requires_grad else None

    def _latest(self, value: Any) -> Any:
        """The attached value, or the value itself where there is none."""
        attached = self.attached_to(value, False)
        return value if attached is None else attached

    def _plain(self, result: Any) -> Any:
        """What the user's code gets for a result that requires no gradient in plain training."""
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        plain = result.detach().clone()  # which may be written into; the graph keeps the result
        self.remember(plain, result)
        return plain

    def remember(self, plain: Any, attached: Any) -> None:
        if isinstance(attached, Tensor) and attached.requires_grad:
            self.attached[id(plain)] = (plain, plain._version, attached)


def _called(func: Call, leaves: list[Any], attached: list[Any], spec: Any) -> Any:
    """A call with its arguments replaced by their attached values."""
    pairs = zip(leaves, attached, strict=True)
    args, kwargs = tree_unflatten([x if v is None else v for x, v in pairs], spec)
    return func(*args, **kwargs)


def _returned(func: Call, *args: Any, out: Tensor, **kwargs: Any) -> Any:
    """The result of a call that is to write it into ``out``."""
    return func(*args, **kwargs)


def original(cls: type[Function], args: tuple[Any, ...], **kwargs: Any) -> Any:
    """``cls.apply(*args)`` as torch has it."""
    return original_apply.__get__(None, cls)(*args, **kwargs)
