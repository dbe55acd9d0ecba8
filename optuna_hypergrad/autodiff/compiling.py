"""Recorded graphs of torch's operations, compiled by torch's inductor."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.split_module import split_module

from optuna_hypergrad.autodiff.simplify import base_of, changed_by

_lock = threading.Lock()


def compiled(graph: Graph, arguments: Sequence[Any]) -> Callable[..., list[Any]]:
    """A graph as a function that gives the same to rounding, with the same random numbers.

    Inductor changes the order of operations. So what draws is left to torch, and comes first.

    Args:
        graph: The graph.
        arguments: Some of the kinds that it will have; it is run with them.

    Raises:
        Exception: Whatever inductor or the compiler that it calls raises.
    """
    graph = copy.deepcopy(graph)
    _make_shapes_explicit(graph)
    drawing = _drawing(graph)
    parts = split_module(
        GraphModule({}, graph),
        None,  # type: ignore[arg-type]  # unused
        lambda node: 0 if node in drawing else 1,
    )
    rest = parts.submod_1
    assert isinstance(rest, GraphModule)
    parts.submod_1 = _Compiled(rest)
    with _lock:
        parts(*arguments)
    run: Callable[..., list[Any]] = parts.forward
    return run


class _Compiled(nn.Module):
    """A part of a graph, compiled when it is first called."""

    def __init__(self, part: GraphModule) -> None:
        super().__init__()
        self._part = part
        self._run: Callable[..., Any] | None = None

    def forward(self, *arguments: Any) -> Any:
        if self._run is None:
            import torch._inductor  # takes a second

            self._run = torch._inductor.compile(
                self._part, list(arguments), {"fallback_random": True}
            )
        return self._run(*arguments)


def _make_shapes_explicit(graph: Graph) -> None:
    """Let masks of dropout not depend on what they are masks of, which else came first, too."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.empty_like.default:
            dtype, device, shape, strides = node.meta["kind"]
            node.target = torch.ops.aten.empty_strided.default
            node.args, node.kwargs = (shape, strides), {"dtype": dtype, "device": device}


def _drawing(graph: Graph) -> set[Node]:
    """The operations that draw random numbers, and all that have to come before them."""
    found: set[Node] = set()
    read: set[Node] = set()  # by these, or what they are views of
    written: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "placeholder" or node.op == "output":
            continue
        operation = node.meta.get("operation", node.target)
        draws = torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())
        sources = {*map(base_of, node.all_input_nodes)}
        changed = {*map(base_of, changed_by(node))}
        if draws or node in read or not (read.isdisjoint(changed) and written.isdisjoint(sources)):
            found.add(node)
            read |= {*node.all_input_nodes, *sources}
            written |= changed
    return found
