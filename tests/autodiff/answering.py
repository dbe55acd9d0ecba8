"""A mode in which a function of the test's own answers the calls of torch's operations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
READS = (_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default)
"""Operations that read from a device."""


class Answering(TorchDispatchMode):
    """Calls ``answer(operation, args, kwargs)`` in place of an operation."""

    def __init__(self, answer: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._answer = answer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._answer(func, args, dict(kwargs or {}))
