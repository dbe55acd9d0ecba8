"""The operations of R equal traces, called once for all of them.

An operation for which torch has no rule for a further dimension is called for each run in turn, and
so is one that draws random numbers, with the generator of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten, tree_unflatten

from optuna_hypergrad.autodiff.batched.generators import RunGenerators
from optuna_hypergrad.autodiff.simplify import changed_by, viewed
from optuna_hypergrad.autodiff.tracing import Trace, traced

_aten = torch.ops.aten
# Grouped convolutions take longer than one convolution for each run on a CPU.
_ONE_BY_ONE_ON_CPU = frozenset({_aten.convolution.default, _aten.convolution_backward.default})


class StackError(RuntimeError):
    """Why runs cannot be computed as one."""


class StackedTrace:
    """The operations of R traces as a function of stacked inputs.

    Args:
        traces: The trace of each run, or why it has none.
        inputs: Inputs of the kinds, shapes and strides of those to come. The operations are
            called, so they may change in place.
        is_stacked: Whether the first dimension of each input is R; else all runs share it.
        generators: Those of each run.

    Raises:
        StackError: If the traces differ in more than tensors, or cannot be called together.
    """

    def __init__(
        self,
        traces: Sequence[Trace | str],
        inputs: Sequence[Tensor],
        is_stacked: Sequence[bool],
        generators: Sequence[RunGenerators],
    ) -> None:
        known = [trace for trace in traces if isinstance(trace, Trace)]
        for trace in traces:
            if isinstance(trace, str):
                raise StackError(trace)
        self._first = known[0]
        self._traces = [one for one in dict.fromkeys(known) if one.captures]
        stacked = _Stacked(known, is_stacked, generators)
        given = [tensor.detach() for tensor in inputs]
        with torch.enable_grad(), _rules_only():  # as ``Trace`` calls them
            trace, _ = traced(lambda: (stacked(given), None), given, [], holds_generators=True)
        if isinstance(trace, str):
            raise StackError(trace)
        self._trace, self.draws = trace, stacked.draws
        self.lasts = not self._traces and not self.draws
        """Whether it holds nothing of these runs, so that others can use it."""

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The results, each with a first dimension of R."""
        return self._trace(inputs)

    def is_of(self, traces: Sequence[Trace | str]) -> bool:
        """Whether other traces have the same operations, with the same numbers."""
        return all(
            isinstance(trace, Trace) and _difference(self._first, trace) is None for trace in traces
        )

    def is_valid(self) -> bool:
        """Whether all constants are as they were."""
        return all(trace.is_valid() for trace in self._traces)


class _Stacked:
    """Calls the operations of a trace, one after the other, with stacked tensors."""

    def __init__(
        self,
        traces: Sequence[Trace],
        is_stacked: Sequence[bool],
        generators: Sequence[RunGenerators],
    ) -> None:
        self._graph, self._generators = traces[0].graph, generators
        for trace in dict.fromkeys(traces):
            if trace.conditions:
                raise StackError("a run branches on values")
            if (reason := _difference(traces[0], trace)) is not None:
                raise StackError(reason)
        self._is_stacked, self._captured = list(is_stacked), []
        for values in zip(*(trace.captured for trace in traces), strict=True):
            value, is_different = _joined(values)
            self._captured.append(value)
            self._is_stacked.append(is_different)
        self._changed = _changed(self._graph.nodes)
        self._values: dict[Node, Any] = {}
        self._over_runs: set[Node] = set()  # nodes whose values are stacked
        self.draws = False

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        arguments = zip([*inputs, *self._captured], self._is_stacked, strict=True)
        for node in self._graph.nodes:
            if node.op == "output":
                return [self._expanded(one) for one in node.args[0]]
            is_stacked = True
            if node.op == "placeholder":
                value, is_stacked = next(arguments)
            elif node.target is getitem:
                value, is_stacked = _call(node, self._values), node.args[0] in self._over_runs
            elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                value, self.draws = self._drawn(node), True
            elif self._over_runs.isdisjoint(node.all_input_nodes):
                value, is_stacked = _call(node, self._values), False
            else:
                value = self._called(node)
            self._values[node] = value
            if is_stacked:
                self._over_runs.add(node)
            elif node in self._changed:
                self._values[node] = self._expanded(node).clone()
                self._over_runs.add(node)
        raise AssertionError("a graph without results")

    def _expanded(self, node: Node) -> Tensor:
        value: Tensor = self._values[node]
        if node in self._over_runs:
            return value
        return value.expand(len(self._generators), *value.shape)

    def _called(self, node: Node) -> Any:
        """The value of a node, some of whose arguments are stacked."""
        arguments = list(node.all_input_nodes)
        on_cpu = any(self._values[one].device.type == "cpu" for one in arguments)
        if node.target in _ONE_BY_ONE_ON_CPU and on_cpu:
            return self._for_each_run(node)
        structure: Any = None

        def call(*tensors: Tensor) -> list[Tensor]:
            nonlocal structure
            leaves, spec = tree_flatten(_call(node, dict(zip(arguments, tensors, strict=True))))
            structure = [isinstance(leaf, Tensor) for leaf in leaves], spec
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        dims = tuple(0 if one in self._over_runs else None for one in arguments)
        try:
            results = iter(vmap(call, dims)(*(self._values[one] for one in arguments)))
        except Exception:  # whatever torch raises where it has no rule
            return self._for_each_run(node)
        are_tensors, spec = structure
        used = {user.args[1] for user in node.users if user.target is getitem}
        if not all(are_tensors[i] for i in used):  # a rule that leaves out what the call returns
            return self._for_each_run(node)
        return tree_unflatten([next(results) if is_one else None for is_one in are_tensors], spec)

    def _for_each_run(
        self, node: Node, call: Callable[[dict[Node, Any], int], Any] | None = None
    ) -> Any:
        """The value of a node by one call for each run: of the node, or of a function for it."""
        changed = changed_by(node)
        if not self._over_runs.issuperset(changed):
            raise StackError(f"{node.target} changes a tensor that the runs share")
        found = []
        for run in range(len(self._generators)):
            values = {
                one: self._values[one][run] if one in self._over_runs else self._values[one]
                for one in node.all_input_nodes
            }
            found.append(_call(node, values) if call is None else call(values, run))
        if changed and isinstance(found[0], Tensor):  # each is a part of the stack
            return self._values[changed[0]]
        leaves, specs = zip(*map(tree_flatten, found), strict=True)
        stacked = [
            torch.stack(parts) if isinstance(parts[0], Tensor) else None
            for parts in zip(*leaves, strict=True)
        ]
        return tree_unflatten(stacked, specs[0])

    def _drawn(self, node: Node) -> Any:
        """Random numbers, each run's from its own generator."""
        target = _with_generator(node)

        def call(values: dict[Node, Any], run: int) -> Any:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            tensors = [one for one in values.values() if isinstance(one, Tensor)]
            given: Any = kwargs.get("device") or "cpu"
            device = tensors[0].device if tensors else torch.device(given)
            return target(*args, **{**kwargs, "generator": self._generators[run].of(device)})

        return self._for_each_run(node, call)


@contextmanager
def _rules_only() -> Iterator[None]:
    """Let vmap raise where it has no rule, instead of a slow loop and a warning."""
    before = torch._C._functorch._is_vmap_fallback_enabled()  # type: ignore[attr-defined]
    torch._C._functorch._set_vmap_fallback_enabled(False)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(before)  # type: ignore[attr-defined]


def _call(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_method":
        assert isinstance(node.target, str)
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _with_generator(node: Node) -> Any:
    """The overload of a node's operation that takes a generator."""
    target: Any = node.target
    packet, own = target.overloadpacket, _names(target)
    for overload in (target, *(getattr(packet, name) for name in packet.overloads())):
        if _names(overload) == own | {"generator"}:
            return overload
    raise StackError(f"{target} takes no generator")


def _names(overload: Any) -> set[str]:
    return {argument.name for argument in overload._schema.arguments}


def _difference(first: Trace, other: Trace) -> str | None:
    """In what two traces differ besides tensors; None if in nothing."""
    if first.graph is other.graph:  # of equal recordings
        return None
    if len(first.graph.nodes) != len(other.graph.nodes):
        return "runs call different operations"
    places = {node: i for graph in (first.graph, other.graph) for i, node in enumerate(graph.nodes)}
    for one, two in zip(first.graph.nodes, other.graph.nodes, strict=True):
        same_call = one.op == two.op and (one.op == "placeholder" or one.target == two.target)
        if not same_call:
            return f"a run calls {one.target}, another {two.target}"
        arguments = [map_arg((node.args, node.kwargs), places.__getitem__) for node in (one, two)]
        if arguments[0] != arguments[1]:
            return f"runs call {one.target} with different numbers"
    return None


def _joined(values: Sequence[Any]) -> tuple[Any, bool]:
    """Captured tensors of the runs as one, and whether they are stacked."""
    first = values[0]
    if all(value is first for value in values):
        return first, False
    if not all(isinstance(value, Tensor) for value in values):
        raise StackError("runs use different generators of their own")
    if any(value.shape != first.shape or value.dtype != first.dtype for value in values):
        raise StackError("runs use tensors of different shapes")
    if all(torch.equal(value, first) for value in values):
        return first, False
    return torch.stack(list(values)), True


def _changed(nodes: Iterable[Node]) -> set[Node]:
    """Nodes whose values are changed in place, by themselves or in a view."""
    found = set()
    for node in nodes:
        for owner in changed_by(node):
            while (base := viewed(owner)) is not None:
                owner = base
            found.add(owner)
    return found
