"""Whether something can be differentiated twice, found out by doing it.

Which module of a model cannot be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves, tree_map

from optuna_hypergrad.autodiff.second_order.operators import NODE as WRONG
from optuna_hypergrad.autodiff.snapshot import buffers_of, put_back


def differentiate_twice(outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Differentiates ``outputs`` twice with respect to ``sources``, and drops the result.

    Unlike ``torch.autograd.grad`` by itself, this notices torch's own weight norm, whose second
    derivative is wrong, and functions of the user's own that are marked ``@once_differentiable``.
    Asked for certain derivatives only, torch passes over the node
    that would raise, and takes the gradients of such functions for constants without a word.

    Args:
        outputs: Tensors of any shape that require a gradient, such as ``[loss]``.
        sources: Tensors that require a gradient, such as a model's parameters.

    Raises:
        RuntimeError: If there is no second derivative; in torch's words, as far as it has any.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> differentiate_twice([x.exp().sum()], [x])
    """
    if not outputs or not sources:
        return
    if any(node.name().startswith(WRONG) for node in _nodes(outputs)):
        raise RuntimeError("torch's weight norm has a wrong second derivative")
    # Weights that require gradients themselves, for else a last operation without a second
    # derivative passes for one whose gradient is a constant.
    weights = [torch.ones_like(output, requires_grad=True) for output in outputs]
    slopes = torch.autograd.grad(outputs, sources, weights, create_graph=True, allow_unused=True)
    if any(slope is not None and slope.layout != torch.strided for slope in slopes):
        raise RuntimeError("its gradient is sparse")
    curved = [slope for slope in slopes if slope is not None and slope.requires_grad]
    if any(node.name() == "torch::autograd::Error" for node in _nodes(curved)):
        raise RuntimeError("a torch.autograd.Function in it is marked @once_differentiable")
    along = [torch.ones_like(slope) for slope in curved]
    torch.autograd.grad(curved, [*sources, *weights], along, allow_unused=True)


def _nodes(tensors: Sequence[Tensor]) -> Iterator[Node]:
    """Every operation that ``tensors`` came from, each once."""
    seen: set[Node] = set()
    left = [t.grad_fn for t in tensors]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            left.extend(following for following, _ in node.next_functions)


Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def unsupported(model: nn.Module, run: Callable[[], object]) -> str | None:
    """The innermost module of ``model`` that has no second derivative, and torch's words for why.

    Runs the model once, and then each of its modules by itself on the inputs that it had there,
    from the innermost outwards; one that cannot run by itself is passed over. Buffers and torch's
    random states are put back, and no gradient is left.

    Args:
        model: The model.
        run: Runs it once, for example computes its loss on a batch.

    Returns:
        The module's path as in ``named_modules``, its class and torch's message, such as
        ``"encoder.0 (Round): trying to differentiate twice …"``; None where every module alone can
        be differentiated twice (the fault then lies outside the model, in the loss say).

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        >>> unsupported(model, lambda: model(torch.ones(1, 2)))
    """
    with _undone(model):
        inputs = _inputs(model, run)
        for path, module in sorted(model.named_modules(), key=_outwards):
            reason = _failure(module, inputs[module]) if module in inputs else None
            if reason is not None:
                return f"{path or 'the model itself'} ({type(module).__name__}): {reason}"
    return None


def _outwards(item: tuple[str, nn.Module]) -> int:
    """Sorts the items of ``named_modules`` by depth, the innermost first, the model last."""
    path, _ = item
    return -len(path.split(".")) if path else 0


def _inputs(model: nn.Module, run: Callable[[], object]) -> dict[nn.Module, Inputs]:
    """What each module of ``model`` was called with the last time, while ``run`` runs."""
    found: dict[nn.Module, Inputs] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[module] = tree_map(_detached, (args, kwargs))

    with ExitStack() as stack:
        for module in model.modules():
            hook = module.register_forward_pre_hook(record, with_kwargs=True)
            stack.callback(hook.remove)
        run()
    return found


def _failure(module: nn.Module, inputs: Inputs) -> str | None:
    """Torch's message where ``module`` cannot be differentiated twice at ``inputs``, else None."""
    leaves = tree_map(_leaf, inputs)
    args, kwargs = tree_map(_copy, leaves)  # which the module may overwrite
    try:
        outputs = _differentiable(module(*args, **kwargs))
    except Exception:
        return None
    sources = _differentiable([leaves, list(module.parameters())])
    try:
        differentiate_twice(outputs, sources)
    except RuntimeError as error:
        return str(error)
    return None


def _differentiable(tree: object) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries that require a gradient."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.requires_grad]


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _leaf(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Puts buffers and torch's random states back."""
    buffers = buffers_of(model)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        put_back(buffers)
