"""The operations of torch that a function calls, recorded as data.

They are recorded below autograd, so backward passes that the function takes are among them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

PLAIN = (
    *(int, float, bool, str, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Arguments besides tensors that a recording holds as they are."""

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


def kind_of(tensor: Tensor) -> Hashable:
    """What a recording takes for granted of one of its tensors."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor or a generator of a recording, by its number."""

    number: int

    def __repr__(self) -> str:
        return f"%{self.number}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    Args:
        operation: The operation.
        args: Its arguments, with operands for tensors and generators.
        kwargs: Its keyword arguments, likewise.
        result: The operand of a tensor; those of several; a truth value; or None.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Operand | tuple[Operand | None, ...] | bool | None


@dataclass(frozen=True, eq=False)
class Recording:
    """The calls of a function. Two recordings are equal if their calls are.

    Args:
        n_inputs: How many of the operands are inputs: the first ones.
        captured: Those that the function used besides.
        calls: Its calls, in order.
        results: Its results.
        kinds: The kind of each operand; None for generators and tensors that are not strided.
        constants: Tensors that depend on shapes alone, by operand.
    """

    n_inputs: int
    captured: tuple[Operand, ...]
    calls: tuple[Call, ...]
    results: tuple[Operand, ...]
    kinds: Mapping[Operand, Hashable]
    constants: Mapping[Operand, Tensor]

    @cached_property
    def _key(self) -> Hashable:
        calls = tuple((call.operation, repr((call.args, call.kwargs))) for call in self.calls)
        results = repr((self.captured, self.results, [call.result for call in self.calls]))
        # Those of results follow from the calls, but for torch's default dtype and device.
        return self.n_inputs, calls, results, tuple(self.kinds.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recording) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class Recorder(TorchDispatchMode):
    """Records what is called within it, until it meets what it cannot record.

    Args:
        inputs: Tensors that differ from call to call.
        holds_generators: Whether generators besides torch's own may be drawn from.
    """

    def __init__(self, inputs: Sequence[Tensor], holds_generators: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._obstacle: str | None = None
        self.captured: dict[Operand, Tensor | torch.Generator] = {}
        self.versions: dict[Tensor, int] = {}
        """Versions of captured tensors when they were first used."""
        self._holds_generators, self._n_inputs = holds_generators, len(inputs)
        self._calls: list[Call] = []
        self._operands = WeakTensorKeyDictionary()
        self._kinds: dict[Operand, Hashable] = {}
        self._constants: dict[Operand, Tensor] = {}
        for tensor in inputs:
            self._new_operand(tensor)

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
        if self._obstacle is None:
            self._obstacle = _obstacle(func, args)
        if self._obstacle is None:
            given = [self._argument(one, func) for one in args]
            named = {name: self._argument(one, func) for name, one in kwargs.items()}
        result = func(*args, **kwargs)
        if self._obstacle is None:
            self._calls.append(Call(func, tuple(given), named, self._result(result, func)))
        return result

    def recording(self, results: Sequence[Tensor]) -> Recording | str:
        """What was recorded, or why nothing was.

        Args:
            results: Those of the function.
        """
        found = tuple(self._argument(one, "the result") for one in results)
        return self._obstacle or Recording(
            self._n_inputs,
            tuple(self.captured),
            tuple(self._calls),
            found,
            self._kinds,
            self._constants,
        )

    def _argument(self, value: Any, func: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple([self._argument(one, func) for one in value])
        if isinstance(value, Tensor):
            if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
                name = type(value).__name__
                self._obstacle = f"{func} takes a {name} of layout {value.layout}"
                return None
            if value not in self._operands:
                self.captured[self._new_operand(value)] = value
                self.versions[value] = value._version
            return self._operands[value]
        if self._holds_generators and isinstance(value, torch.Generator):
            operand = self._number(None)
            self.captured[operand] = value
            return operand
        if not isinstance(value, PLAIN):
            self._obstacle = f"{func} takes a {type(value).__name__}"
        return value

    def _result(self, result: Any, func: Any) -> Operand | tuple[Operand | None, ...] | bool | None:
        if isinstance(result, Tensor):
            operand = self._new_operand(result)
            if func in _FACTORIES and result.numel() <= _FEW:
                self._constants[operand] = result.clone()
            return operand
        if isinstance(result, tuple | list):
            parts = [self._new_operand(p) if isinstance(p, Tensor) else None for p in result]
            return tuple(parts)
        if result is not None and not isinstance(result, bool):
            self._obstacle = f"{func} returns a {type(result).__name__}"
            return None
        return result

    def _new_operand(self, tensor: Tensor) -> Operand:
        kind = kind_of(tensor) if tensor.layout == torch.strided else None
        self._operands[tensor] = operand = self._number(kind)
        return operand

    def _number(self, kind: Hashable) -> Operand:
        operand = Operand(len(self._kinds))
        self._kinds[operand] = kind
        return operand


def _obstacle(func: Any, args: tuple[Any, ...]) -> str | None:
    """Why a call cannot be recorded, whatever its arguments' types, if it cannot."""
    if func in _INDEXING:
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return "tensors are indexed by a mask" if by_mask else None
    is_item = func is _aten._local_scalar_dense.default
    is_condition = func is _aten.equal.default or (is_item and args[0].dtype == torch.bool)
    if not is_condition and not _DEPEND_ON_VALUES.isdisjoint(func.tags):
        return f"{func} depends on values"
    return None
