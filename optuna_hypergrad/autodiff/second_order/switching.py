"""Forward passes that can be differentiated twice: torch's operations replaced where needed.

Convolutions, batch norm, weight norm, hardsigmoid, bags of embeddings and recurrent layers are
replaced call by call, in this thread only. Attention and compilation are switches of torch's for
the whole process. All are reset afterwards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from optuna_hypergrad.autodiff.second_order.batch_norm import batch_norm
from optuna_hypergrad.autodiff.second_order.convolution import convolution, transposed_convolution
from optuna_hypergrad.autodiff.second_order.operators import embedding_bag, hardsigmoid, weight_norm
from optuna_hypergrad.autodiff.second_order.recurrent import lstm


@dataclass(frozen=True)
class Kernels:
    """What is replaced while a model runs; all off is torch as it is."""

    fused: bool = False  # convolutions, batch norm, LSTMs by faster second derivatives from here
    attention: bool = False  # fused attention by plain products
    eager: bool = False  # compiled code by the Python that it comes from
    recurrent: bool = False  # cuDNN's recurrent layers by torch's own
    formulas: bool = False  # weight norm, hardsigmoid and bags of embeddings by those of operators


class _Shared:
    """A switch of the whole process, on as long as any thread is within it.

    Torch's switches restore what they found, which may be what another thread has set.
    """

    def __init__(self, switch: Callable[[], AbstractContextManager[object]]) -> None:
        self._switch, self._lock, self._users = switch, threading.Lock(), 0
        self._open = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._open.enter_context(self._switch())
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._open.close()


_plain_attention = _Shared(lambda: sdpa_kernel(SDPBackend.MATH))
_eager = _Shared(lambda: torch.compiler.set_stance("force_eager"))


def switched_to(kernels: Kernels) -> Callable[[], AbstractContextManager[object]]:
    """``second_derivatives`` with these kernels; no context at all where nothing is replaced."""
    return nullcontext if kernels == Kernels() else partial(second_derivatives, kernels)


@contextmanager
def second_derivatives(kernels: Kernels) -> Iterator[None]:
    """Within it, what a model computes can be differentiated twice.

    The forward pass has to run within it; backward passes need not, unless they run parts of the
    model again, as activation checkpointing does. Torch does not show calls from within a backward
    pass, so these are not replaced: with ``fused``, torch raises a ``CheckpointError`` (a
    ``RuntimeError``) where there is batch norm to run again.

    Example:
        >>> import torch
        >>> layer, x = torch.nn.Conv1d(1, 1, 2, bias=False), torch.ones(1, 1, 2)
        >>> with second_derivatives(Kernels(fused=True)):
        ...     loss = (layer(x) ** 2).sum()
        >>> gradient, = torch.autograd.grad(loss, layer.weight, create_graph=True)
        >>> torch.autograd.grad(gradient.sum(), layer.weight)
        (tensor([[[4., 4.]]]),)
    """
    replaced: dict[object, Operation] = {}
    if kernels.fused:
        replaced |= _FUSED
    if kernels.recurrent:
        replaced |= _RECURRENT
    if kernels.formulas:
        replaced |= _FORMULAS
    with ExitStack() as stack:
        if kernels.attention:
            stack.enter_context(_plain_attention)
        if kernels.eager:
            stack.enter_context(_eager)
        if replaced:
            stack.enter_context(_Replacing(replaced))
        yield


def kernels_for(model: nn.Module) -> Kernels:
    """What the modules of ``model`` let expect; calls of functions inside them cannot be seen."""
    kinds = [type(module) for module in model.modules()]
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]

    def has(*wanted: type[nn.Module]) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    return Kernels(
        fused=has(nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.LSTM),
        attention=has(nn.MultiheadAttention),
        eager=_compiles(),
        recurrent=has(nn.RNNBase),
        formulas=has(nn.Hardsigmoid, nn.EmbeddingBag, _WeightNorm)
        or any(isinstance(hook, WeightNorm) for hook in hooks),
    )


def _compiles() -> bool:
    """Whether anything in this process was given to ``torch.compile``, as far as torch tells.

    Its optimizers load dynamo, too, but without a compiler. To switch it costs as much as some
    operations, at each step.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return False
    compilers = getattr(dynamo.eval_frame, "cached_backends", None)
    return compilers is None or any(compilers.values())


def candidates(model: nn.Module, device: torch.device) -> list[Kernels]:
    """What to try for ``model``, in this order, until it can be differentiated twice.

    What its modules let expect; then everything, for calls that modules do not show; then the same
    with torch's own convolutions and batch norm, for models that need a third derivative.

    Args:
        model: The model.
        device: Where it runs; recurrent layers need replacing only on CUDA.
    """
    cuda = device.type == "cuda"
    guess = kernels_for(model)
    guess = replace(guess, recurrent=guess.recurrent and cuda)
    compiler = "torch._dynamo" in sys.modules
    everything = Kernels(True, True, eager=compiler, recurrent=cuda, formulas=True)
    return list(dict.fromkeys([guess, everything, replace(everything, fused=False)]))


Operation = Callable[..., object]  # answers a call of torch's, or None


class _Replacing(TorchFunctionMode):
    """Answers calls of torch's functions by others, or by themselves where the other gives None."""

    def __init__(self, replaced: Mapping[object, Operation]) -> None:
        super().__init__()
        self._replaced = replaced

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        other = self._replaced.get(func)
        result = None if other is None else other(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


def _without_cudnn(layer: Operation, *args: Any, **kwargs: Any) -> Any:
    with torch.backends.cudnn.flags(enabled=False):
        return layer(*args, **kwargs)


_FUSED: dict[object, Operation] = {
    F.conv1d: convolution,
    F.conv2d: convolution,
    F.conv3d: convolution,
    F.conv_transpose1d: transposed_convolution,
    F.conv_transpose2d: transposed_convolution,
    F.conv_transpose3d: transposed_convolution,
    F.batch_norm: batch_norm,
    torch.lstm: lstm,
}
_FORMULAS: dict[object, Operation] = {
    torch._weight_norm: weight_norm,
    F.hardsigmoid: hardsigmoid,
    F.embedding_bag: embedding_bag,
}
_RECURRENT: dict[object, Operation] = {
    function: partial(_without_cudnn, function)
    for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
}
