"""Records what a loss stops gradients at, while it is computed.

What is detached, or computed without gradients, is for the user's code what it is in torch: a
tensor that requires no gradient. Beside it, the same value is kept as a function of the weights
(its twin), and takes its place where a later operation uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from optuna_hypergrad.autodiff.stop_gradient.functions import (
    OpaqueError,
    answered_by,
    declared,
    original,
)
from optuna_hypergrad.autodiff.stop_gradient.switch import (
    NORMALISING,
    Stops,
    changed_in_place,
    is_opaque,
    stopped,
    while_stopped,
)

Call = Callable[..., Any]
# By the id of a tensor: it, so that the id stays its own, its version, and its twin.
Twins = dict[int, tuple[Tensor, int, Tensor]]
_GRAD_MODE = torch._C._set_grad_enabled
_PLAIN_ROWS = {"padding_idx": None, "scale_grad_by_freq": False}
_DETACHING = (torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__)  # type: ignore[attr-defined]


class StopGradients(TorchFunctionMode):
    """Within it, a loss can be differentiated as the training does, and then that gradient itself.

    Gradients stop while ``stops.active``, as in plain training: at ``detach`` and ``data``, at what
    is computed under ``no_grad``, at the results of ``torch.autograd.grad`` without
    ``create_graph``; and a ``torch.autograd.Function`` has the backward that it declares, and hooks
    change gradients. Where stops are not active, all of it is differentiated as it was computed.
    Numbers that leave torch (``item``, ``numpy``) are constants.

    Args:
        stops: Whether gradients stop; told what was found.
        twins: Those of a recording that this one is a part of.

    Example:
        >>> import torch
        >>> w, stops = torch.tensor(3.0, requires_grad=True), Stops()
        >>> with StopGradients(stops):
        ...     loss = w * w.detach()
        >>> g, = torch.autograd.grad(loss, w, create_graph=True)   # the training takes w.detach()
        >>> stops.active = False                                   # for g, but g moves with w
        >>> float(g.detach()), float(torch.autograd.grad(g, w)[0])
        (3.0, 1.0)
    """

    def __init__(self, stops: Stops, twins: Twins | None = None) -> None:
        super().__init__()
        self._stops = stops
        self._no_grad = False  # whether the user's code has turned gradients off
        self._twins: Twins = {} if twins is None else twins
        stops.recorded = partial(StopGradients, stops, self._twins)
        self._open = ExitStack()

    def __enter__(self) -> StopGradients:
        self._open.enter_context(answered_by(self._function))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._open.close()

    def __torch_function__(
        self,
        func: Call,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _GRAD_MODE:
            self._no_grad = not args[0]
        elif func in _DETACHING:
            return self._detached(func, *args)
        elif func is torch.Tensor.detach_:
            return self._detached_in_place(*args)
        elif func is torch.autograd.grad:
            return self._gradient(args, kwargs)
        elif func is torch.Tensor.register_hook:
            return func(args[0], while_stopped(args[1], self._hooked()))
        elif func is F.gumbel_softmax and kwargs.get("hard"):
            return self._gumbel_softmax(*args, **kwargs)
        elif func is torch.normal and self._no_grad and isinstance(args[-1], Tensor):
            return self._normal(*args, **kwargs)
        elif func is F.embedding and _reweights(kwargs):
            return self._embedding(*args, **kwargs)
        elif (self._twins or self._no_grad) and not is_opaque(func):
            return self._operation(func, args, kwargs)
        return func(*args, **kwargs)

    def _operation(self, func: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that may have to do with what is stopped."""
        stopping = self._no_grad and not torch.is_grad_enabled()
        if not stopping and not torch.is_grad_enabled():
            return func(*args, **kwargs)  # inside of a function of torch's own
        leaves, spec = tree_flatten((args, kwargs))
        twins = [self._twin(leaf, stopping) for leaf in leaves]
        writes, target = changed_in_place(func, args, kwargs)
        if all(twin is None for twin in twins) or (writes and target is None):
            return func(*args, **kwargs)
        needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
        if target is not None:
            return self._in_place(func, target, leaves, twins, spec, needs_grad and not stopping)
        if needs_grad and not stopping:
            self._stops.found = True
            return _called(func, leaves, twins, spec)
        # The graph keeps what a normalisation reads, too, but it has to write into the original.
        own = leaves if func in NORMALISING else [_own(leaf) for leaf in leaves]
        with torch.enable_grad():
            results = _called(func, own, twins, spec)
        if _share_memory(results, twins):
            with torch.no_grad():
                plain = func(*args, **kwargs)
            tree_map(self._keep, plain, results)
            return plain
        return tree_map(self._plain, results)

    def _in_place(
        self,
        func: Call,
        target: Tensor,
        leaves: list[Any],
        twins: list[Any],
        spec: Any,
        live: bool,
    ) -> Any:
        """An operation that writes into a tensor; ``live`` where gradients flow through it."""
        args, kwargs = tree_unflatten(leaves, spec)
        twin = self._twin(target, False)
        if twin is None and (target.requires_grad or live):
            # Weights, which nothing may write into, or what autograd itself follows.
            self._stops.found |= live
            kept = [None if leaf is target else t for leaf, t in zip(leaves, twins, strict=True)]
            return _called(func, leaves, kept, spec)
        with torch.enable_grad():
            copy = (target if twin is None else twin).clone()
            if kwargs.get("out") is target:  # autograd does not follow it there
                result = copy = _called(partial(_returned, func), leaves, twins, spec)
            else:
                others = [copy if x is target else t for x, t in zip(leaves, twins, strict=True)]
                result = _called(func, leaves, others, spec)
        if live or target.requires_grad:
            self._stops.found |= live
            result = func(*args, **kwargs)
        else:
            with torch.no_grad():
                if copy.shape == target.shape:
                    target.copy_(copy)  # not computed again: it may draw random numbers
                else:
                    func(*args, **kwargs)
        self._keep(target, copy)
        return None if result is None else target

    def _detached(self, func: Call, tensor: Tensor) -> Tensor:
        plain: Tensor = func(tensor)
        twin = self._twin(tensor, True)
        if twin is not None:
            self._keep(plain, twin)
        return plain

    def _detached_in_place(self, tensor: Tensor) -> Tensor:
        twin = self._twin(tensor, True)
        tensor.detach_()
        if twin is not None:
            self._keep(tensor, twin)
        return tensor

    def _gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``torch.autograd.grad`` within the loss."""
        active, self._stops.active = self._stops.active, True
        try:
            if kwargs.get("create_graph") or (len(args) > 4 and args[4]):
                return torch.autograd.grad(*args, **kwargs)
            with torch.enable_grad():
                kept = {"create_graph": True, "retain_graph": True}
                found = torch.autograd.grad(*args[:3], **{**kwargs, **kept})
        finally:
            self._stops.active = active
        return tuple(self._plain(None if g is None else stopped(self._stops, g)) for g in found)

    def _gumbel_softmax(self, logits: Tensor, **kwargs: Any) -> Tensor:
        """Its one-hot result, by torch's formula; torch detaches where this mode cannot see it."""
        with self._stops.recorded():
            soft = F.gumbel_softmax(logits, **{**kwargs, "hard": False})
            index = soft.max(kwargs.get("dim", -1), keepdim=True)[1]
            hard = torch.zeros_like(logits).scatter_(kwargs.get("dim", -1), index, 1.0)
            return hard - soft.detach() + soft

    def _normal(self, mean: Any, std: Tensor, **kwargs: Any) -> Tensor:
        """Samples, which move with their mean and deviation; torch gives them no derivative."""
        plain = torch.normal(mean, std, **kwargs)
        noise = (plain - mean) / std
        twins = (self._twin(part, True) for part in (mean, std))
        with torch.enable_grad():
            mean, std = (
                part if twin is None else twin
                for part, twin in zip((mean, std), twins, strict=True)
            )
            self._keep(plain, mean + std * noise)
        return plain

    def _embedding(self, index: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
        """Rows of a table whose gradient leaves out the padding, or is divided by frequencies."""
        plain = {**kwargs, **_PLAIN_ROWS}
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return self._operation(F.embedding, (index, weight), plain)  # type: ignore[no-any-return]
        rows = F.embedding(index, weight, **plain)
        share = torch.ones_like(index, dtype=rows.dtype)
        if kwargs.get("scale_grad_by_freq"):
            share = share / torch.bincount(index.flatten(), minlength=len(weight))[index]
        if (padding := kwargs.get("padding_idx")) is not None:
            share = share.masked_fill(index == padding % len(weight), 0.0)
        return stopped(self._hooked(), rows, rows * share[..., None])

    def _function(self, cls: type[torch.autograd.Function], args: tuple[Any, ...]) -> Any:
        """A call of a ``torch.autograd.Function`` of the user's."""
        stopping = self._no_grad and not torch.is_grad_enabled()
        if not stopping and not torch.is_grad_enabled():
            return original(cls, args)
        twins = [self._twin(arg, stopping) for arg in args]
        needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in args)
        if not needs_grad and all(twin is None for twin in twins):
            return original(cls, args)
        replaced = tuple(x if t is None else t for x, t in zip(args, twins, strict=True))
        state = torch.get_rng_state()
        try:
            results = declared(cls, replaced, self._hooked(), self._seen)
        except OpaqueError:  # its own backward is differentiated, which the preflight checks
            torch.set_rng_state(state)
            return original(cls, args)
        return results if needs_grad and not stopping else tree_map(self._plain, results)

    def _seen(self, value: Any) -> Any:
        """A value as a function of the weights, as far as that is known."""
        twin = self._twin(value, False)
        return value if twin is None else twin

    def _hooked(self) -> Stops:
        self._stops.found = True
        return self._stops

    def _twin(self, value: Any, stopping: bool) -> Tensor | None:
        """The value as a function of the weights, where that is more than torch sees of it."""
        if not isinstance(value, Tensor):
            return None
        _, version, twin = self._twins.get(id(value), (None, None, None))
        if twin is not None and version == value._version:
            leaf = value.requires_grad and not stopping  # made a leaf after it was detached
            return stopped(self._stops, twin, value) if leaf else twin
        return stopped(self._stops, value) if stopping and value.requires_grad else None

    def _plain(self, result: Any) -> Any:
        """What the user's code gets for a result that requires no gradient in plain training."""
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        plain = result.detach().clone()  # which may be written into; the graph keeps the result
        self._keep(plain, result)
        return plain

    def _keep(self, plain: Any, twin: Any) -> None:
        if isinstance(twin, Tensor) and twin.requires_grad:
            self._twins[id(plain)] = (plain, plain._version, twin)


def _called(func: Call, leaves: list[Any], twins: list[Any], spec: Any) -> Any:
    """A call with twins in the place of what has one."""
    pairs = zip(leaves, twins, strict=True)
    args, kwargs = tree_unflatten([x if t is None else t for x, t in pairs], spec)
    return func(*args, **kwargs)


def _returned(func: Call, *args: Any, out: Tensor, **kwargs: Any) -> Any:
    """What a call gives that is asked to write it somewhere."""
    return func(*args, **kwargs)


def _own(value: Any) -> Any:
    """A copy of a buffer or the like, which may be written into after the graph has kept it."""
    return value.clone() if isinstance(value, Tensor) and value.is_leaf else value


def _reweights(kwargs: dict[str, Any]) -> bool:
    """Whether the gradient of a table of embeddings is not that of the rows that are looked up."""
    padding = kwargs.get("padding_idx")
    return padding is not None or bool(kwargs.get("scale_grad_by_freq"))


def _share_memory(results: Any, sources: Sequence[Tensor | None]) -> bool:
    """Whether results are views of what they come from, so that writing into them changes both."""
    places = {s.untyped_storage().data_ptr() for s in sources if s is not None}
    tensors = [r for r in tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad]
    return any(r.untyped_storage().data_ptr() in places for r in tensors)
