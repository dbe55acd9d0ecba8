"""What a recorded graph of torch's operations need not compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_aten = torch.ops.aten
_ALIASES = (_aten.detach.default, _aten.lift_fresh.default)
_FUNCTIONS = frozenset(
    {
        *("add", "addcmul", "addmm", "bmm", "cat", "clamp_min", "div", "eq", "exp", "expand"),
        *("ge", "gt", "le", "lerp", "log", "lt", "mean", "mm", "mul", "neg", "permute", "pow"),
        *("relu", "rsub", "select", "sigmoid", "sqrt", "sub", "sum", "t", "tanh", "transpose"),
        *("unsqueeze", "view", "where"),
    }
)
"""Operations that torch's functions and methods of these names call with the same arguments, in
half the time of a call of the operation itself."""


def simplify(graph: Graph, values: dict[Node, Tensor | torch.Generator]) -> None:
    """Leave out what does not change the results, and compute what is always the same.

    Args:
        graph: The graph, which is changed.
        values: Those of arguments that are captured, and of nodes that depend on shapes alone; what
            is computed is added under new arguments of the graph.
    """
    for node in graph.nodes:
        if node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
        elif node.target is _aten.t.default and node.args[0].target is _aten.t.default:
            node.replace_all_uses_with(node.args[0].args[0])
    graph.eliminate_dead_code(_has_effect)
    for node in graph.nodes:
        _leave_out_gradients(node)
    graph.eliminate_dead_code(_has_effect)
    _compute_now(graph, values)
    for node in graph.nodes:
        _call_faster(node)


def _compute_now(graph: Graph, values: dict[Node, Tensor | torch.Generator]) -> None:
    """Compute what is the same at each call: small constants, and views of captured tensors."""
    for node in graph.nodes:
        if node.op != "call_function" or not _is_only_read(node):
            continue
        value = values.get(node)
        if value is None and is_view(node) and node.args[0] in values:
            value = node.target(values[node.args[0]], *node.args[1:], **node.kwargs)
        if value is not None:
            with graph.inserting_before(node):
                constant = graph.placeholder(f"constant_{len(values)}")
            values[constant] = value
            node.replace_all_uses_with(constant)
            graph.erase_node(node)


def schema_of(node: Node) -> Any:
    """That of the operation that a node calls; None if it calls something else."""
    return getattr(node.target, "_schema", None)


def is_mutable(node: Node) -> bool:
    """Whether a call changes one of its arguments."""
    schema = schema_of(node)
    return schema is not None and bool(schema.is_mutable)


def changed_by(node: Node) -> list[Node]:
    """The arguments that a call changes in place."""
    schema, found = schema_of(node), []
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += [value] if isinstance(value, Node) else []
    return found


def is_view(node: Node) -> bool:
    schema = schema_of(node)
    if schema is None or schema.is_mutable or len(schema.returns) != 1:
        return False
    returned = schema.returns[0]
    return returned.alias_info is not None and str(returned.type) == "Tensor"


def _is_only_read(node: Node) -> bool:
    """Whether nothing changes the result of a call in place."""
    if any(map(is_mutable, node.users)):
        return False
    return all(_is_only_read(user) for user in node.users if is_view(user))


def _has_effect(node: Node) -> bool:
    """Whether a call counts even if nobody uses its result: it changes a tensor or a generator."""
    if node.op != "call_function":
        return True
    tags = getattr(node.target, "tags", ())
    return is_mutable(node) or torch.Tag.nondeterministic_seeded in tags


def _call_faster(node: Node) -> None:
    schema = schema_of(node)
    name = schema.name.removeprefix("aten::") if schema is not None else ""
    if name in _FUNCTIONS:
        if hasattr(torch, name):
            node.target = getattr(torch, name)
        else:
            node.op, node.target = "call_method", name


def _leave_out_gradients(node: Node) -> None:
    """Let a backward operation not compute the gradients that nobody uses."""
    schema = schema_of(node)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    place = names.index("output_mask") if "output_mask" in names else len(node.args)
    if place < len(node.args):
        used, wanted = {user.args[1] for user in node.users}, node.args[place]
        assert isinstance(wanted, list | tuple)
        node.update_arg(place, [bool(one) and i in used for i, one in enumerate(wanted)])
