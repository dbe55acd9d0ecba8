"""Operations of torch that a function calls, recorded once and run again.

A trace runs without the Python code of the function and without autograd. It is recorded below
autograd, so it contains the backward passes that the function takes; operations whose results
nobody uses are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import getitem
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from optuna_hypergrad.autodiff.simplify import simplify
from optuna_hypergrad.logger import logger

PLAIN = (
    *(int, float, bool, str, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Arguments besides tensors that a trace holds as they are."""

_aten = torch.ops.aten
_FACTORIES = frozenset(
    {
        *(_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default),
        *(_aten.ones.default, _aten.ones_like.default, _aten.new_ones.default),
        *(_aten.full.default, _aten.full_like.default, _aten.scalar_tensor.default),
    }
)
_FEW = 1024  # elements of such a tensor that is held rather than made anew
_INDEXING = (_aten.index.Tensor, _aten._unsafe_index.Tensor)
_DEPEND_ON_VALUES = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_Other = TypeVar("_Other")


class TraceError(RuntimeError):
    """A condition on values, which the function branches on, is no longer what it was."""


class Trace:
    """The operations of one call of a function, as a function of its inputs.

    Args:
        graph: The operations; its arguments are the inputs and the captured tensors, its results
            those of the function and then the conditions.
        captured: Tensors and generators that the function used besides its inputs.
        constants: Those of them that have to stay as they are.
        conditions: Truth values that the function asked for, which have to be the same again.
    """

    def __init__(
        self,
        graph: Graph,
        captured: Sequence[Tensor | torch.Generator],
        constants: Sequence[Tensor],
        conditions: Sequence[bool],
    ) -> None:
        self.graph, self.conditions = graph, list(conditions)
        self._run = GraphModule({}, graph).forward
        self.captured = [one.detach() if isinstance(one, Tensor) else one for one in captured]
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


def kind_of(tensor: Tensor) -> Hashable:
    """What a trace takes for granted of one of its inputs."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


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
    recorder = _Recorder(inputs, holds_generators)
    with recorder:
        results, other = function()
    return recorder.trace(results, owned), other


class _Recorder(TorchDispatchMode):
    """Records what is called within it, until it meets what it cannot record."""

    def __init__(self, inputs: Sequence[Tensor], holds_generators: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._obstacle: str | None = None
        self._plain = (*PLAIN, torch.Generator) if holds_generators else PLAIN
        self._versions: dict[Tensor, int] = {}  # of captured tensors
        # Of these, of generators, and of what depends on shapes alone.
        self._values: dict[Node, Tensor | torch.Generator] = {}
        self._conditions: list[tuple[Node, bool]] = []
        self._graph = Graph()
        self._nodes = WeakTensorKeyDictionary()
        for i, tensor in enumerate(inputs):
            self._set_node(tensor, self._graph.placeholder(f"input_{i}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler at the first call

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self._obstacle = self._obstacle or _obstacle(func, args, kwargs, self._plain)
        if self._obstacle is not None:
            return func(*args, **kwargs)
        arguments = tree_map(self._node_of, (args, kwargs))
        result = func(*args, **kwargs)
        node = self._graph.call_function(func, *arguments)
        if isinstance(result, Tensor):
            self._set_node(result, node)
            if func in _FACTORIES and result.numel() <= _FEW:
                self._values[node] = result.clone()
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._set_node(part, self._graph.call_function(getitem, (node, i)))
        elif isinstance(result, bool):
            self._conditions.append((node, result))
        elif result is not None:
            self._obstacle = f"{func} returns a {type(result).__name__}"
        return result

    def trace(self, results: Sequence[Tensor], owned: Sequence[Tensor]) -> Trace | str:
        """The trace, or why there is none."""
        ids = set(map(id, owned))
        constants = [tensor for tensor in self._versions if id(tensor) not in ids]
        if any(tensor._version != self._versions[tensor] for tensor in constants):
            self._obstacle = "a tensor is changed in place that is none of the model's"
        if self._obstacle is not None:
            return self._obstacle
        conditions = [node for node, _ in self._conditions]
        self._graph.output([*map(self._node_of, results), *conditions])
        simplify(self._graph, self._values)
        arguments = (node for node in self._graph.nodes if node.op == "placeholder")
        captured = [self._values[node] for node in arguments if node in self._values]
        return Trace(self._graph, captured, constants, [value for _, value in self._conditions])

    def _node_of(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            node = self._graph.placeholder(f"generator_{len(self._values)}")
            self._values[node] = value
            return node
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            node = self._graph.placeholder(f"captured_{len(self._versions)}")
            self._set_node(value, node)
            self._values[node] = value
            self._versions[value] = value._version
        return self._nodes[value]

    def _set_node(self, tensor: Tensor, node: Node) -> None:
        self._nodes[tensor] = node
        node.meta["kind"] = kind_of(tensor) if tensor.layout == torch.strided else None


def _obstacle(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    plain: tuple[type, ...],
) -> str | None:
    """Why a call cannot be recorded, if it cannot."""
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            if type(leaf) not in (Tensor, nn.Parameter) or leaf.layout != torch.strided:
                return f"{func} takes a {type(leaf).__name__} of layout {leaf.layout}"
        elif not isinstance(leaf, plain):
            return f"{func} takes a {type(leaf).__name__}"
    if func in _INDEXING:
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return "tensors are indexed by a mask" if by_mask else None
    is_item = func is _aten._local_scalar_dense.default
    is_condition = func is _aten.equal.default or (is_item and args[0].dtype == torch.bool)
    if not is_condition and not _DEPEND_ON_VALUES.isdisjoint(func.tags):
        return f"{func} depends on values"
    return None
