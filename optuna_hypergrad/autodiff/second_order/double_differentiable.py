"""Checks by differentiation whether tensors have a second derivative, and which module has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves, tree_map

from optuna_hypergrad.autodiff.second_order.operators import WEIGHT_NORM_NODE
from optuna_hypergrad.autodiff.snapshot import Snapshotter

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

# What to do, by a part of what torch says.
_ADVICE = {
    "@once_differentiable": "Write its backward in operations of torch's and take the mark off.",
    "its gradient is sparse": "Pass sparse=False to nn.Embedding or nn.EmbeddingBag.",
    "use_reentrant": "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint.",
    "not implemented": "Write it in other operations of torch's.",
}
_ANYWAY = "Replace it by operations that torch can differentiate twice."


def differentiate_twice(outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Differentiate ``outputs`` twice with respect to ``sources``, and drop the result.

    Unlike ``torch.autograd.grad`` by itself, this notices torch's own weight norm, whose second
    derivative is wrong, and functions of the user's own that are marked ``@once_differentiable``.
    Asked for certain derivatives only, torch passes over the node that would raise, and takes the
    gradients of such functions for constants without a word.

    Args:
        outputs: Tensors of any shape that require a gradient, such as ``[loss]``.
        sources: Tensors that require a gradient, such as a model's parameters.

    Raises:
        RuntimeError: If there is no second derivative; with torch's message where it has one.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> differentiate_twice([x.exp().sum()], [x])
    """
    if not outputs or not sources:
        return
    if any(node.name().startswith(WEIGHT_NORM_NODE) for node in nodes(outputs)):
        raise RuntimeError("torch's weight norm has a wrong second derivative")
    # Factors that require gradients themselves: else a last operation without a second derivative
    # passes for one whose gradient is a constant.
    ones = [torch.ones_like(output, requires_grad=True) for output in outputs]
    gradients = torch.autograd.grad(outputs, sources, ones, create_graph=True, allow_unused=True)
    if any(g is not None and g.layout != torch.strided for g in gradients):
        raise RuntimeError("its gradient is sparse")
    curved = [g for g in gradients if g is not None and g.requires_grad]
    if any(node.name() == "torch::autograd::Error" for node in nodes(curved)):
        raise RuntimeError("a torch.autograd.Function in it is marked @once_differentiable")
    directions = [torch.ones_like(g) for g in curved]
    torch.autograd.grad(curved, [*sources, *ones], directions, allow_unused=True)


def nodes(tensors: Sequence[Tensor]) -> list[Node]:
    """Every operation that ``tensors`` came from, each once."""
    found: dict[Node, None] = {}
    left = [t.grad_fn for t in tensors]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found[node] = None
            left.extend(following for following, _ in node.next_functions)
    return list(found)


def explained(model: nn.Module, run: Callable[[], object], error: Exception | None) -> str:
    """The message for a model that cannot be differentiated twice; it names the module.

    Args:
        model: The model.
        run: Computes its loss.
        error: What torch said of it.
    """
    module = module_at_fault(model, run)
    reason = f"The module is {module}"
    if module is None:
        reason = f"None of its modules is at fault by itself; see to what loss_fn calls: {error}"
    advice = next((what for part, what in _ADVICE.items() if part in reason), _ANYWAY)
    reason = f"{reason.rstrip('.')}. {advice}"
    return f"model: it has no second derivative, which hypergradients need. {reason}"


def module_at_fault(model: nn.Module, run: Callable[[], object]) -> str | None:
    """The innermost module of ``model`` that has no second derivative, and torch's words for why.

    Runs the model once, and then each of its modules by itself on the inputs that it had there,
    from the innermost outwards; one that cannot run by itself is passed over. All is left as it
    was.

    Args:
        model: The model.
        run: Runs it once, for example computes its loss on a batch.

    Returns:
        The module's path as in ``named_modules``, its class and torch's message, such as
        ``"encoder.0 (Round): trying to differentiate twice …"``; None where every module alone can
        be differentiated twice (the fault then lies outside the model, in the loss say).

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        >>> module_at_fault(model, lambda: model(torch.ones(1, 2)))
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.enable_grad(), Snapshotter(model, device).unchanged():
        inputs = _inputs(model, run)
        modules = [(path, module) for path, module in model.named_modules() if module in inputs]
        modules.sort(key=lambda item: -len(item[0].split(".")) if item[0] else 0)
        for path, module in modules:
            if (reason := _failure(module, inputs[module])) is not None:
                return f"{path or 'the model itself'} ({type(module).__name__}): {reason}"
    return None


def _inputs(model: nn.Module, run: Callable[[], object]) -> dict[nn.Module, Inputs]:
    """What each module of ``model`` was called with the last time, while ``run`` runs."""
    inputs: dict[nn.Module, Inputs] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        detached = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))
        inputs[module] = detached

    with ExitStack() as stack:
        for module in model.modules():
            hook = module.register_forward_pre_hook(record, with_kwargs=True)
            stack.callback(hook.remove)
        run()
    return inputs


def _failure(module: nn.Module, inputs: Inputs) -> str | None:
    """Torch's message where ``module`` cannot be differentiated twice at ``inputs``, else None."""

    def leaf(value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().requires_grad_()
        return value

    leaves = tree_map(leaf, inputs)
    # The module may overwrite its inputs, so it gets copies of the leaves.
    args, kwargs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, leaves)
    try:
        outputs = _requiring_grad(module(*args, **kwargs))
    except Exception:  # it cannot run by itself
        return None
    try:
        differentiate_twice(outputs, _requiring_grad([leaves, list(module.parameters())]))
    except RuntimeError as error:
        return str(error)
    return None


def _requiring_grad(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.requires_grad]
