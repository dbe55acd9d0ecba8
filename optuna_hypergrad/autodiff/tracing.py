"""Operations of torch that a function calls, recorded once and run again.

A trace runs without the Python code of the function and without autograd; operations whose results
nobody uses are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from operator import getitem
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from optuna_hypergrad.autodiff.compiling import compiled
from optuna_hypergrad.autodiff.recording import Operand, Recorder, Recording, kind_of
from optuna_hypergrad.autodiff.simplify import simplify
from optuna_hypergrad.logger import logger

_Other = TypeVar("_Other")


class TraceError(RuntimeError):
    """A condition on values, which the function branches on, is no longer what it was."""


class Program:
    """The operations of a recording as a function.

    Its arguments are the inputs, and then what ``bind`` gives; its results are those of the
    recorded function, and then the truth values that it asked for.

    Args:
        recording: The recording.
    """

    def __init__(self, recording: Recording) -> None:
        self.graph, nodes = _graph(recording)
        self.conditions = [call.result for call in recording.calls if isinstance(call.result, bool)]
        self._captured = [nodes[operand] for operand in recording.captured]
        self._constants = {nodes[operand]: one for operand, one in recording.constants.items()}
        self._views = simplify(self.graph, self._captured, self._constants)
        arguments = [node for node in self.graph.nodes if node.op == "placeholder"]
        self._bound = arguments[recording.n_inputs :]
        self.run: Callable[..., list[Any]] = GraphModule({}, self.graph).forward
        self._compiled: Callable[..., list[Any]] | Exception | None = None

    def compiled(self, arguments: Sequence[Any]) -> Callable[..., list[Any]]:
        """The same function, compiled at the first call, also if that fails.

        See ``compiling.compiled``.
        """
        if self._compiled is None:
            try:
                self._compiled = compiled(self.graph, arguments)
            except Exception as error:
                self._compiled = error
        if isinstance(self._compiled, Exception):
            raise self._compiled
        return self._compiled

    def bind(self, captured: Sequence[Tensor | torch.Generator]) -> list[Tensor | torch.Generator]:
        """The arguments besides the inputs.

        Args:
            captured: What the recorded function used besides its inputs, or others in their place.
        """
        values: dict[Node, Any] = self._constants | dict(zip(self._captured, captured, strict=True))
        for node, (view, base, args, kwargs) in self._views.items():
            values[node] = view(values[base], *args, **kwargs)
        bound = [values[node] for node in self._bound]
        return [one.detach() if isinstance(one, Tensor) else one for one in bound]


@lru_cache(maxsize=64)
def _program(recording: Recording) -> Program:
    """That of an equal recording, if there was one: mostly in an earlier trial of a study."""
    return Program(recording)


def _graph(recording: Recording) -> tuple[Graph, dict[Operand, Node]]:
    graph, nodes = Graph(), {}
    inputs = map(Operand, range(recording.n_inputs))
    for name, operands in (("input", inputs), ("captured", recording.captured)):
        for operand in operands:
            nodes[operand] = graph.placeholder(f"{name}_{operand.number}")

    def given(argument: Any) -> Any:
        return map_aggregate(argument, lambda a: nodes[a] if isinstance(a, Operand) else a)

    conditions = []
    for call in recording.calls:
        node = graph.call_function(call.operation, given(call.args), given(call.kwargs))
        if isinstance(call.result, Operand):
            nodes[call.result] = node
        elif isinstance(call.result, tuple):
            for i, part in enumerate(call.result):
                if part is not None:
                    nodes[part] = graph.call_function(getitem, (node, i))
        elif call.result is not None:
            conditions.append(node)
    graph.output([*given(recording.results), *conditions])
    for operand, node in nodes.items():
        node.meta["kind"] = recording.kinds[operand]
    return graph, nodes


class Trace:
    """The operations of one call of a function, as a function of its inputs.

    Args:
        program: The operations.
        captured: Tensors and generators that the function used besides its inputs.
        constants: Those of them that have to stay as they are.
    """

    def __init__(
        self,
        program: Program,
        captured: Sequence[Tensor | torch.Generator],
        constants: Sequence[Tensor],
    ) -> None:
        self.graph, self.conditions, self._program = program.graph, program.conditions, program
        self.captured, self._run = program.bind(captured), program.run
        self._versions = [(tensor, tensor._version) for tensor in constants]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The results for other inputs of the same kinds, shapes and strides.

        Raises:
            TraceError: If a condition has changed.
        """
        # Some kernels keep what their backward operation needs only where gradients are enabled;
        # nothing here requires one.
        with torch.enable_grad():
            results: list[Tensor] = self._run(*(t.detach() for t in inputs), *self.captured)
        n = len(results) - len(self.conditions)
        if self.conditions and results[n:] != self.conditions:
            raise TraceError("a condition on values has changed")
        return results[:n]

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code runs."""
        return self._run is not self._program.run

    def compile(self, inputs: Sequence[Tensor]) -> None:
        """Run compiled code from now on.

        Args:
            inputs: Some of the kinds that the trace will get.
        """
        with torch.enable_grad():
            self._run = self._program.compiled([*(t.detach() for t in inputs), *self.captured])

    def interpret(self) -> None:
        """Run the operations one by one again."""
        self._run = self._program.run

    @property
    def captures(self) -> bool:
        """Whether the function used tensors besides its inputs and the model's."""
        return bool(self._versions)

    def is_valid(self) -> bool:
        """Whether all constants are as they were."""
        return all(tensor._version == version for tensor, version in self._versions)


class Traces:
    """Calls a pure function of tensors, by traces from the second call of a kind on.

    Calls are of a kind if their tensors have the same shapes and their constants are the same. A
    function that branches on values is called as it is, for the kinds whose branches have changed.
    """

    def __init__(self) -> None:
        self._by_kind: dict[Hashable, Trace | str | None] = {}  # else: the obstacle; called once

    def __call__(
        self,
        function: Callable[[], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        *constants: Hashable,
    ) -> Sequence[Tensor]:
        """The results of a function.

        Args:
            function: The function with its arguments.
            inputs: Those of them that are tensors.
            constants: All else that it depends on.
        """
        kind = (*map(kind_of, inputs), *constants)
        if kind not in self._by_kind:
            self._by_kind[kind] = None
            return function()
        trace = self._by_kind[kind]
        if trace is None:
            found, results = traced(lambda: (given := function(), given), inputs, [])
            if isinstance(found, str):
                self._leave(kind, found)
            else:
                self._by_kind[kind] = found
            return results
        if isinstance(trace, Trace) and trace.is_valid():
            try:
                return trace(inputs)
            except RuntimeError as error:
                self._leave(kind, str(error))
        return function()

    def _leave(self, kind: Hashable, obstacle: str) -> None:
        self._by_kind[kind] = obstacle
        logger.info(f"Steps are computed without a trace, which takes longer: {obstacle}.")


def traced(
    function: Callable[[], tuple[Sequence[Tensor], _Other]],
    inputs: Sequence[Tensor],
    owned: Sequence[Tensor],
    *,
    holds_generators: bool = False,
) -> tuple[Trace | str, _Other]:
    """Call a function and record its operations.

    Args:
        function: Returns the results of the trace, and anything else.
        inputs: The tensors that it uses and that differ from call to call.
        owned: Tensors that it uses and that change in place between calls.
        holds_generators: Whether it may draw from generators besides torch's own, which the
            trace then holds.

    Returns:
        The trace, or why there is none; and what else the function returned.

    Example:
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> def gradient():
        ...     return list(torch.autograd.grad(x * x, x)), None
        >>> trace, _ = traced(gradient, [x], [])
        >>> trace([torch.tensor(4.0)])
        [tensor(8.)]
    """
    recorder = Recorder(inputs, holds_generators)
    with recorder:
        results, other = function()
    ids, versions = set(map(id, owned)), recorder.versions
    constants = [tensor for tensor in versions if id(tensor) not in ids]
    if any(tensor._version != versions[tensor] for tensor in constants):
        return "a tensor is changed in place that is none of the model's", other
    recording = recorder.recording(results)
    if isinstance(recording, str):
        return recording, other
    return Trace(_program(recording), list(recorder.captured.values()), constants), other
