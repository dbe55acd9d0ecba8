"""Whole models under ``second_derivatives``: what makes them differentiable, and what is left."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import scripts
from autodiff.second_order.problems import FUSED, twice
from optuna_hypergrad.autodiff.second_order.double_differentiable import differentiate_twice
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    candidates,
    kernels_for,
    second_derivatives,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Attention(nn.Module):
    """Attention by a call of a function, which modules do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)


def compiled() -> nn.Module:
    torch._dynamo.reset()  # it gives up compiling what other tests have compiled often
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))
    return torch.compile(model, backend="aot_eager")


COMPILED_TWICE = """
import torch

model = torch.compile(torch.nn.Linear(4, 5), backend="aot_eager")
parameters = list(model.parameters())
loss = model(torch.randn(3, 4)).tanh().sum()
gradients = torch.autograd.grad(loss, parameters, create_graph=True)
torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), parameters)
"""


@pytest.mark.slow
def test_torch_alone_refuses_compiled_code() -> None:
    """In a process of its own: what others compile may keep torch from compiling any more."""
    done = scripts.run("-c", COMPILED_TWICE)
    assert re.search("not currently support|donated", done.stderr)


COMPILED_LATER = """
import torch
from optuna_hypergrad.autodiff.second_order.switching import kernels_for

layer = torch.nn.Linear(4, 5)
layer(torch.randn(3, 4)).sum().backward()
torch.optim.SGD(layer.parameters()).step()  # loads dynamo
print(kernels_for(layer).eager)
torch.compile(layer, backend="aot_eager")
print(kernels_for(layer).eager)
"""


@pytest.mark.parametrize("compilers", [{}, {1: None}, {1: None, 2: print}, None])
def test_a_compiler_is_what_torch_keeps(
    monkeypatch: pytest.MonkeyPatch, compilers: dict[int, object] | None
) -> None:
    frames = torch._dynamo.eval_frame
    if compilers is None:  # another torch, which keeps them elsewhere
        monkeypatch.delattr(frames, "cached_backends")
    else:
        monkeypatch.setattr(frames, "cached_backends", compilers)
    assert kernels_for(nn.Linear(1, 1)).eager == (compilers is None or 2 in compilers)


@pytest.mark.slow
def test_the_compiler_is_switched_only_where_there_is_one() -> None:
    done = scripts.run("-c", COMPILED_LATER)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_what_was_compiled_before_a_reset_is_found_by_trying() -> None:
    model, x = compiled(), torch.randn(3, 4)
    torch._dynamo.reset()  # and so forgets its compilers, but the model compiles again
    assert any(kernels.eager for kernels in candidates(model, CPU))
    parameters = list(model.parameters())
    twice(lambda: model(x), parameters, candidates(model, CPU)[-1])


@pytest.mark.parametrize(
    ("make", "kernels"),
    [
        (Attention, Kernels(attention=True)),
        (encoder, Kernels(attention=True)),
        (compiled, Kernels(eager=True)),
    ],
)
def test_what_torch_alone_refuses(make: Callable[[], nn.Module], kernels: Kernels) -> None:
    model, x = make(), torch.randn(2, 3, 4)
    parameters = list(model.parameters())
    if make is not compiled:
        with pytest.raises(RuntimeError, match="not implemented"):
            twice(lambda: model(x), parameters, Kernels())
    value, first, second = twice(lambda: model(x), parameters, kernels)
    eps = 1e-5

    def gradients(by: float) -> list[Tensor]:
        """The gradient at the weights moved by ``by`` along the product's direction."""
        moved = [(w + by * torch.cos(w)).detach() for w in parameters]
        with torch.no_grad():
            before = [w.clone() for w in parameters]
            for w, m in zip(parameters, moved, strict=True):
                w.copy_(m)
        _, gradient, _ = twice(lambda: model(x), parameters, kernels)
        with torch.no_grad():
            for w, b in zip(parameters, before, strict=True):
                w.copy_(b)
        return [g.detach() for g in gradient]

    for product, up, down in zip(second, gradients(eps), gradients(-eps), strict=True):
        assert torch.allclose(product, (up - down) / (2 * eps), rtol=1e-6, atol=1e-7)
    assert all(torch.isfinite(g).all() for g in [value, *first])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_without_cudnn(
    kind: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[bool] = []
    flags = torch.backends.cudnn.flags

    @contextmanager
    def recorded(*, enabled: bool) -> Iterator[None]:
        with flags(enabled=enabled):
            entered.append(enabled)
            yield

    monkeypatch.setattr(torch.backends.cudnn, "flags", recorded)
    model, x = kind(3, 4), torch.randn(5, 2, 3)
    parameters = list(model.parameters())
    _, _, ours = twice(lambda: model(x)[0], parameters, Kernels(recurrent=True))
    assert entered == [False]
    _, _, own = twice(lambda: model(x)[0], parameters, Kernels())
    assert all(torch.equal(a, b) for a, b in zip(ours, own, strict=True))


def test_a_whole_network() -> None:
    model, x = residual(), torch.randn(5, 3, 6, 6)
    parameters = list(model.parameters())
    ours = twice(lambda: model(x), parameters, FUSED)
    own = twice(lambda: model(x), parameters, Kernels())
    assert all(torch.equal(a, b) for a, b in zip(ours[1], own[1], strict=True))
    for mine, other in zip(ours[2], own[2], strict=True):
        # The bias of a layer before batch norm has a second derivative of 0 but for rounding.
        assert float((mine - other).norm()) < 1e-11 * float(max(t.norm() for t in own[2]))


@pytest.mark.parametrize(
    ("make", "shape", "kernels"),
    [
        (encoder, (2, 3, 4), Kernels(attention=True)),
        (residual, (5, 3, 6, 6), Kernels()),
        (lambda: nn.Conv2d(3, 4, 3), (5, 3, 6, 6), FUSED),
    ],
    ids=["attention", "torch's own", "convolution"],
)
def test_activation_checkpointing(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kernels: Kernels
) -> None:
    """Backward passes run the forward pass again, so they belong within the context, too."""
    model, x = make(), torch.randn(shape)
    parameters = list(model.parameters())
    with second_derivatives(kernels):
        kept = twice(lambda: model(x), parameters, Kernels())
        again = twice(lambda: checkpoint(model, x, use_reentrant=False), parameters, Kernels())
    for one, other in zip([*kept[1], *kept[2]], [*again[1], *again[2]], strict=True):
        assert torch.equal(one, other)


def test_checkpointed_batch_norm_is_refused_when_fused() -> None:
    model, x = residual(), torch.randn(5, 3, 6, 6)
    with second_derivatives(FUSED), pytest.raises(RuntimeError, match="Recomputed values"):
        loss = checkpoint(model, x, use_reentrant=False).sum()
        differentiate_twice([loss], list(model.parameters()))


def test_everything_is_put_back() -> None:
    kernels = Kernels(fused=True, attention=True, eager=True, recurrent=True)
    x, weight = torch.randn(1, 1, 4, requires_grad=True), torch.randn(1, 1, 2)
    with pytest.raises(KeyError), second_derivatives(kernels), second_derivatives(FUSED):
        assert "_Convolution" in str(F.conv1d(x, weight).grad_fn)
        raise KeyError
    assert "_Convolution" not in str(F.conv1d(x, weight).grad_fn)
    assert torch.backends.cuda.flash_sdp_enabled()
    with torch.no_grad(), second_derivatives(kernels):
        assert F.conv1d(x, weight).grad_fn is None


def test_what_modules_let_expect() -> None:
    guess = kernels_for(nn.Sequential(residual(), encoder()))
    assert (guess.fused, guess.attention, guess.recurrent) == (True, True, False)
    assert kernels_for(nn.GRU(1, 1)).recurrent
    plain = nn.Linear(1, 1)
    assert not any([kernels_for(plain).fused, kernels_for(plain).attention])
    for model, device in ((plain, CPU), (residual(), CPU), (nn.LSTM(1, 1), CUDA)):
        tried = candidates(model, device)
        assert 2 <= len(tried) == len(set(tried)) <= 3
        assert not tried[-1].fused
        assert tried[-1].recurrent == (device is CUDA)
