import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autodiff.second_order.problems import FUSED, assert_like_torch, assert_same_at_once, twice
from optuna_hypergrad.autodiff.second_order.convolution import convolution
from optuna_hypergrad.autodiff.second_order.switching import Kernels, second_derivatives

CALLS = {
    "plain": {},
    "stride and padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": (2,)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "stride": 2},
}


def problem(dimensions: int, groups: int = 1, transposed: bool = False) -> list[Tensor]:
    """Input, weight and bias, all learned: 4 channels, 8 outputs."""
    across = (4, 8 // groups) if transposed else (8, 4 // groups)
    shapes = [(2, 4, *[6] * dimensions), (*across, *[3] * dimensions), (8,)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("call", CALLS)
def test_derivatives_are_torchs(call: str, dimensions: int, transposed: bool) -> None:
    x, weight, bias = problem(dimensions, CALLS[call].get("groups", 1), transposed)
    function = getattr(F, f"conv{'_transpose' if transposed else ''}{dimensions}d")
    assert_like_torch(lambda: function(x, weight, bias, **CALLS[call]), [x, weight, bias])
    assert_like_torch(lambda: function(input=x, weight=weight, **CALLS[call]), [x, weight])


def test_numbers_for_each_dimension_and_output_padding() -> None:
    x, weight, bias = problem(2)
    assert_like_torch(lambda: F.conv2d(x, weight, bias, (2, 1), [0, 2]), [x, weight, bias])
    x, weight, bias = problem(2, transposed=True)
    assert_like_torch(
        lambda: F.conv_transpose2d(x, weight, bias, 2, (1, 0), (1, 0), dilation=(1, 2)),
        [x, weight, bias],
    )


@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_what_is_not_learned_needs_no_derivative(learned: tuple[int, ...]) -> None:
    tensors = [t.requires_grad_(i in learned) for i, t in enumerate(problem(2))]
    assert_like_torch(lambda: F.conv2d(*tensors, 2, 1), [tensors[i] for i in learned])


def test_channels_last() -> None:
    x, weight, bias = problem(2)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert_like_torch(lambda: F.conv2d(last, weight, bias), [last, weight, bias])


def test_derivatives_of_every_order_by_finite_differences() -> None:
    tensors = [torch.randn(s, requires_grad=True) for s in [(2, 2, 4), (4, 1, 2), (4,)]]

    def cubed(*tensors: Tensor) -> Tensor:
        y = convolution(*tensors, stride=2, groups=2)
        assert y is not None
        return y**3

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(cubed(*tensors).sum(), tensors, create_graph=True)

    assert torch.autograd.gradgradcheck(cubed, tensors)
    assert torch.autograd.gradgradcheck(gradients, tensors)


def test_many_products_at_once() -> None:
    sources = problem(2, groups=2)
    with second_derivatives(FUSED):
        loss = torch.sin(F.conv2d(*sources, groups=2)).sum()
    gradients = torch.autograd.grad(loss, sources, create_graph=True)
    assert_same_at_once(gradients, sources)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: F.conv2d(x[0], w),  # no batch
        lambda x, w: F.conv2d(x, w, padding="same"),
        lambda x, w: F.conv2d(x.bfloat16(), w.bfloat16()).double(),
        lambda x, w: F.conv2d(x.to(torch.cdouble), w.to(torch.cdouble)).real,
    ],
    ids=["unbatched", "padding by name", "bfloat16", "complex"],
)
def test_other_calls_are_left_to_torch(call) -> None:  # type: ignore[no-untyped-def]
    x, weight, _ = problem(2)
    results = [twice(lambda: call(x, weight), [x, weight], k) for k in (FUSED, Kernels())]
    for mine, own in zip(*[[v, *f, *s] for v, f, s in results], strict=True):
        assert torch.equal(mine, own)


def test_transforms_and_autocast_are_left_to_torch() -> None:
    x, weight, bias = problem(2)

    def gradient(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.grad(lambda w: torch.sin(F.conv2d(x, w)).sum())(weight)

    own = gradient(x, weight)
    with second_derivatives(FUSED):
        assert torch.equal(gradient(x, weight), own)
        assert torch.equal(torch.func.vmap(gradient, (0, None))(x[None], weight)[0], own)
    with torch.autocast("cpu", torch.bfloat16), second_derivatives(FUSED):
        assert F.conv2d(x.float(), weight.float()).dtype == torch.bfloat16
    with second_derivatives(FUSED), pytest.raises(RuntimeError, match="expected input"):
        F.conv2d(x[:, :2], weight, bias)
