import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.second_order.problems import FUSED, assert_like_torch, assert_same_at_once, twice
from optuna_hypergrad.autodiff.second_order.batch_norm import batch_norm
from optuna_hypergrad.autodiff.second_order.switching import Kernels, second_derivatives

SHAPES = [(5, 3), (4, 3, 5), (4, 3, 2, 3), (2, 3, 2, 3, 2)]


def problem(shape: tuple[int, ...]) -> list[Tensor]:
    """Input, weight and bias, all learned; the input neither centred nor of variance 1."""
    return [
        (3 * torch.randn(shape) + 2).requires_grad_(),
        torch.randn(shape[1], requires_grad=True),
        torch.randn(shape[1], requires_grad=True),
    ]


def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, torch.zeros(3), torch.ones(3), weight, bias, True, eps=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_torchs(shape: tuple[int, ...]) -> None:
    sources = problem(shape)
    assert_like_torch(lambda: normalised(*sources), sources)


def test_second_derivative_by_finite_differences() -> None:
    def ours(*tensors: Tensor) -> Tensor:
        y = batch_norm(tensors[0], torch.zeros(3), torch.ones(3), *tensors[1:], True)
        assert y is not None
        return y

    assert torch.autograd.gradgradcheck(ours, problem((4, 3, 2)))


@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_what_is_not_learned_needs_no_derivative(learned: tuple[int, ...]) -> None:
    tensors = [t.requires_grad_(i in learned) for i, t in enumerate(problem(SHAPES[2]))]
    assert_like_torch(lambda: normalised(*tensors), [tensors[i] for i in learned])


def test_channels_last() -> None:
    x, weight, bias = problem((4, 3, 5, 5))
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert_like_torch(lambda: normalised(last, weight, bias), [last, weight, bias])


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_advance_as_torchs(momentum: float | None) -> None:
    layers = [nn.BatchNorm2d(3, momentum=momentum) for _ in range(2)]
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        for layer, kernels in zip(layers, (FUSED, Kernels()), strict=True):
            with second_derivatives(kernels):
                layer(x)
    for mine, own in zip(layers[0].buffers(), layers[1].buffers(), strict=True):
        assert torch.equal(mine, own)


def test_many_products_at_once() -> None:
    sources = problem(SHAPES[2])
    with second_derivatives(FUSED):
        loss = torch.sin(normalised(*sources)).sum()
    gradients = torch.autograd.grad(loss, sources, create_graph=True)
    assert_same_at_once(gradients, sources)


def test_a_third_derivative_is_refused() -> None:
    sources = problem(SHAPES[0])
    with second_derivatives(FUSED):
        loss = normalised(*sources).pow(3).sum()
    (first,) = torch.autograd.grad(loss, sources[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivative"):
        torch.autograd.grad(first.square().sum(), sources[0], create_graph=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.BatchNorm1d(3).eval(),
        nn.BatchNorm1d(3).bfloat16(),
    ],
    ids=["no weight", "no running statistics", "evaluating", "bfloat16"],
)
def test_other_calls_are_left_to_torch(layer: nn.Module) -> None:
    layer = layer.double() if layer.weight is None or layer.weight.dtype == torch.float32 else layer
    dtype = next((p.dtype for p in layer.parameters()), torch.float64)
    x = torch.randn(5, 3, requires_grad=True)
    results = [twice(lambda: layer(x.to(dtype)).double(), [x], k) for k in (FUSED, Kernels())]
    for mine, own in zip(*[[v, *f, *s] for v, f, s in results], strict=True):
        assert torch.equal(mine, own)


def test_a_single_value_is_refused_in_torchs_words() -> None:
    with second_derivatives(FUSED), pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(3)(torch.randn(1, 3))
