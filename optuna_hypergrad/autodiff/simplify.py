"""What a recorded graph of torch's operations need not compute.

Each node has the kind of its result under ``node.meta["kind"]``, if that is a tensor. One result
takes the place of another only where nothing changes either in place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node

_aten = torch.ops.aten
_ALIASES = (_aten.detach.default, _aten.lift_fresh.default)
_ZEROS = (_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default)
_RESHAPING = (  # views that have all elements of their argument, if they have as many
    *(_aten.view.default, _aten.expand.default, _aten.unsqueeze.default, _aten.select.int),
    *(_aten.squeeze.dim, _aten.t.default, _aten.transpose.int, _aten.permute.default),
)
_FUNCTIONS = frozenset(
    {
        *("_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data"),
        *("abs", "add", "addcmul", "addmm", "bmm", "cat", "clamp_min", "div", "dot", "eq", "exp"),
        *("expand", "ge", "gt", "le", "lerp", "log", "lt", "maximum", "mean", "minimum", "mm"),
        *("mul", "ne", "neg", "permute", "pow", "reciprocal", "relu", "rsqrt", "rsub", "select"),
        *("sigmoid", "sign", "split_with_sizes", "sqrt", "squeeze", "stack", "sub", "sum", "t"),
        *("tanh", "transpose", "unsqueeze", "view", "where"),
    }
)
"""Operations that torch's functions and methods of these names call with the same arguments, in
half the time of a call of the operation itself."""
_SMALL = 2**14  # elements
_STATISTICS = ("running_mean", "running_var")  # which batch norm changes, whatever its schema says


class View(NamedTuple):
    """A view of a captured tensor, or of another view."""

    operation: Callable[..., Tensor]
    base: Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def simplify(
    graph: Graph, captured: Collection[Node], constants: dict[Node, Tensor]
) -> dict[Node, View]:
    """Leave out what does not change the results, and what is the same at each call.

    Args:
        graph: The graph, which is changed.
        captured: Arguments whose values stay the same, or change in place between calls.
        constants: Values of nodes that depend on shapes alone; those that remain are arguments of
            the graph afterwards.

    Returns:
        Further arguments of the graph, which are views of others, in order.
    """
    for node in graph.nodes:
        if node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code(_has_effect)
    for node in graph.nodes:
        x = _unchanged(node)
        if x is not None and is_constant(node) and is_constant(x):
            node.replace_all_uses_with(x)
    _compute_once(graph)
    graph.eliminate_dead_code(_has_effect)
    for node in graph.nodes:
        _leave_out_gradients(node)
    graph.eliminate_dead_code(_has_effect)
    views = _take_as_arguments(graph, captured, constants)
    for node in graph.nodes:
        _call_faster(node)
    return views


def _unchanged(node: Node) -> Node | None:
    """x, if a node computes x + 0, 1.0 · x or x¹, or a view of x that is like x."""
    x: Any = None
    if node.target is _aten.add.Tensor and not node.kwargs:
        x, other = node.args if _is_zero(node.args[1]) else reversed(node.args)
        x = x if _is_zero(other) else None
    elif node.target in (_aten.mul.Tensor, _aten.mul.Scalar):
        x, factor = node.args
        x = x if isinstance(factor, int | float) and factor == 1 else None
    elif node.target is _aten.pow.Tensor_Scalar:
        x = node.args[0] if node.args[1] == 1 else None
    elif node.target in _RESHAPING:
        x = _like_it(node)
    if not isinstance(x, Node) or x.meta["kind"] != node.meta["kind"]:
        return None
    is_result = any(user.op == "output" for user in node.users)
    return None if is_result and x.op == "placeholder" else x  # whose memory is the caller's


def _like_it(view: Node) -> Node | None:
    """The first of the tensors that a view is a view of that is like the view."""
    x, found = view, None
    while x.target in _RESHAPING:
        x = x.args[0]  # type: ignore[assignment]
        if x.meta["kind"][2].numel() != view.meta["kind"][2].numel():
            break
        found = x if x.meta["kind"] == view.meta["kind"] else found
    return found


def _is_zero(value: Any) -> bool:
    return isinstance(value, Node) and value.target in _ZEROS and is_constant(value)


def _compute_once(graph: Graph) -> None:
    """Use the result of an earlier call with the same arguments, if it is small.

    Large ones are computed again, as activation checkpointing does to save memory.
    """
    found: dict[Hashable, Node] = {}
    for node in graph.nodes:
        is_pure = _name(node) in _FUNCTIONS or node.target is _aten._to_copy.default
        if not is_pure or "kind" not in node.meta or node.meta["kind"][2].numel() > _SMALL:
            continue
        if all(map(is_constant, (node, *node.all_input_nodes))):
            earlier = found.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if earlier is not node:
                node.replace_all_uses_with(earlier)


def _take_as_arguments(
    graph: Graph, captured: Collection[Node], constants: dict[Node, Tensor]
) -> dict[Node, View]:
    """Replace small constants and views of captured tensors by arguments; returns the views."""
    views: dict[Node, View] = {}
    known = {*captured}
    for node in graph.nodes:
        if node.op != "call_function" or not is_constant(node):
            continue
        value, base = constants.pop(node, None), viewed(node)
        is_view = base in known and "kind" in node.meta and node.all_input_nodes == [base]
        if value is None and not is_view:
            continue
        with graph.inserting_before(node):
            argument = graph.placeholder(f"constant_{len(known)}")
        known.add(argument)
        if value is not None:
            constants[argument] = value
        elif base is not None:
            views[argument] = View(node.target, base, node.args[1:], node.kwargs)
        node.replace_all_uses_with(argument)
        graph.erase_node(node)
    return views


def schema_of(node: Node) -> Any:
    """That of the operation that a node calls; None if it calls something else."""
    return getattr(node.meta.get("operation", node.target), "_schema", None)


def changed_by(node: Node) -> list[Node]:
    """The arguments that a call changes in place."""
    schema, found = schema_of(node), []
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written or argument.name in _STATISTICS:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += [value] if isinstance(value, Node) else []
    return found


def viewed(node: Node) -> Node | None:
    """The argument whose memory a result shares, if there is one."""
    if node.target is operator.getitem:
        several = node.args[0]
        assert isinstance(several, Node)
        return several if viewed(several) is not None else None
    schema = schema_of(node)
    if schema is None or all(returned.alias_info is None for returned in schema.returns):
        return None
    argument = node.args[0]
    return argument if isinstance(argument, Node) else None


def is_constant(node: Node) -> bool:
    """Whether nothing changes a result in place, by itself or as a part of another."""
    return _is_only_read(base_of(node))


def base_of(node: Node) -> Node:
    """What a view, also of a view, is a view of; else the result itself."""
    while (base := viewed(node)) is not None:
        node = base
    return node


def _is_only_read(node: Node) -> bool:
    if any(node in changed_by(user) for user in node.users):
        return False
    return all(_is_only_read(user) for user in node.users if viewed(user) is node)


def _has_effect(node: Node) -> bool:
    """Whether a call counts even if nobody uses its result: it changes a tensor or a generator."""
    if node.op != "call_function":
        return True
    schema, tags = schema_of(node), getattr(node.target, "tags", ())
    is_mutable = schema is not None and bool(schema.is_mutable)
    return is_mutable or torch.Tag.nondeterministic_seeded in tags


def _name(node: Node) -> str:
    """That of the operation that a node calls."""
    schema = schema_of(node)
    return schema.name.removeprefix("aten::") if schema is not None else ""


def _call_faster(node: Node) -> None:
    name = _name(node)
    if name == "_to_copy" and _only_converts(node):
        node.meta["operation"] = node.target
        node.op, node.target, node.kwargs = "call_method", "to", {"dtype": node.kwargs["dtype"]}
    elif name in _FUNCTIONS:
        node.meta["operation"] = node.target
        if hasattr(torch, name):
            node.target = getattr(torch, name)
        else:
            node.op, node.target = "call_method", name


def _only_converts(node: Node) -> bool:
    """Whether a copy differs from its argument in its dtype, and in nothing else."""
    argument = node.args[0]
    if not isinstance(argument, Node) or "kind" not in argument.meta:
        return False
    (old, *others), (new, *same) = argument.meta["kind"], node.meta["kind"]
    return old != new and others == same and "dtype" in node.kwargs


def _leave_out_gradients(node: Node) -> None:
    """Let a backward operation not compute the gradients that nobody uses."""
    schema = schema_of(node)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    place = names.index("output_mask") if "output_mask" in names else len(node.args)
    if place < len(node.args):
        used, wanted = {user.args[1] for user in node.users}, node.args[place]
        assert isinstance(wanted, list | tuple)
        node.update_arg(place, [bool(one) and i in used for i, one in enumerate(wanted)])
