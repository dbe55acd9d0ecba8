"""Traces: what is recorded, what is left out, and what cannot be recorded."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from optuna_hypergrad.autodiff.tracing import Trace, TraceError, traced


def recorded(function: Callable[..., list[Tensor]], *inputs: Tensor, owned: Any = ()) -> Any:
    return traced(lambda: (function(*inputs), None), inputs, owned)[0]


def targets(trace: Trace) -> list[str]:
    return [str(node.target) for node in trace.graph.nodes if node.op.startswith("call")]


def test_a_trace_computes_the_same_for_other_inputs() -> None:
    layer = nn.Linear(3, 2)

    def product(x: Tensor, v: Tensor) -> list[Tensor]:
        loss = layer(x).tanh().square().sum()
        (gradient,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        (curved,) = torch.autograd.grad(gradient, layer.weight, v)
        return [loss.detach(), curved]

    trace = recorded(product, torch.randn(4, 3), torch.randn(2, 3), owned=layer.parameters())
    x, v = torch.randn(4, 3), torch.randn(2, 3)
    with torch.no_grad():
        layer.weight.mul_(0.5)  # owned, so the trace sees the new values
    assert trace.is_valid()
    assert all(map(torch.equal, trace([x, v]), product(x, v)))


def test_results_that_nobody_uses_are_not_computed() -> None:
    x, kernel, bias = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(4)
    leaves = [tensor.requires_grad_() for tensor in (x, kernel, bias)]

    def gradient(x: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(F.conv2d(x, kernel, bias).square().sum(), leaves)
        return [found[0]]

    trace = recorded(gradient, x)
    (node,) = (n for n in trace.graph.nodes if "convolution_backward" in str(n.target))
    assert node.args[-1] == [True, False, False]
    assert torch.equal(trace([x.detach()])[0], gradient(x)[0])


def test_constants_and_views_of_weights_are_computed_once() -> None:
    weight = torch.randn(2, 3)
    trace = recorded(lambda x: [x @ weight.t() + torch.ones(2)], torch.randn(4, 3), owned=[weight])
    x = torch.randn(4, 3)
    with torch.no_grad():
        weight.mul_(2.0)
    assert torch.equal(trace([x])[0], x @ weight.t() + torch.ones(2))
    assert len(targets(trace)) == 2  # a product and a sum


def test_a_constant_that_is_changed_through_a_view_is_made_anew() -> None:
    def summed(x: Tensor) -> list[Tensor]:
        total = torch.zeros(2, 2)
        total.view(4).add_(x)
        return [total]

    trace = recorded(summed, torch.ones(4))
    assert all(torch.equal(trace([torch.ones(4)])[0], torch.ones(2, 2)) for _ in range(3))


def test_a_part_of_a_constant_that_is_changed_is_made_anew() -> None:
    def summed(x: Tensor) -> list[Tensor]:
        total = torch.zeros(4)
        total.split(2)[1].add_(x)
        return [total]

    trace = recorded(summed, torch.ones(2))
    assert all(trace([torch.ones(2)])[0].tolist() == [0.0, 0.0, 1.0, 1.0] for _ in range(3))


def test_what_changes_nothing_is_not_computed() -> None:
    def padded(x: Tensor) -> list[Tensor]:
        y = x.exp()
        return [(torch.zeros(2, 3) + 1.0 * y + torch.zeros_like(y)).view(2, 3).pow(1).neg()]

    trace = recorded(padded, torch.ones(2, 3))
    assert targets(trace) == [str(torch.exp), str(torch.neg)]
    x = torch.tensor([[0.0, -torch.inf, torch.nan], [1.0, 2.0, 3.0]])
    assert torch.equal(trace([x])[0].nan_to_num(9.0), padded(x)[0].nan_to_num(9.0))


def test_views_that_end_where_they_began_are_not_computed() -> None:
    def there_and_back(x: Tensor) -> list[Tensor]:
        first = x.unsqueeze(0).view(1, -1).t().permute(1, 0).squeeze(0).exp()
        return [first.view(1, 6)[0].view(2, 3).t().t(), x.view(2, 3).t().reshape(-1).neg()]

    trace, x = recorded(there_and_back, torch.ones(6)), torch.arange(6.0)
    assert all(map(torch.equal, trace([x]), there_and_back(x)))
    assert targets(trace)[:3] == [str(torch.exp), "view", "view"]  # of the first, and of the second


def test_results_are_not_the_inputs() -> None:
    trace, x = (
        recorded(lambda x: [x.view(1, 3)[0], x.pow(1), 1.0 * x], torch.ones(3)),
        torch.ones(3),
    )
    for result in trace([x])[1:]:  # the first is a view, as in the function
        result.zero_()
    assert x.tolist() == [1.0] * 3


def test_conversions_are_those_of_the_function() -> None:
    def converted(x: Tensor) -> list[Tensor]:
        image = x.view(1, 2, 2, 2)
        last = image.to(torch.float64, memory_format=torch.channels_last)
        return [x.double() * 2, last, x.to(torch.float16).float(), x.to(x.dtype, copy=True)]

    x = torch.arange(8.0, dtype=torch.float32) / 3
    found, expected = recorded(converted, torch.ones(8, dtype=torch.float32))([x]), converted(x)
    assert all(map(torch.equal, found, expected))
    assert [one.stride() for one in found] == [one.stride() for one in expected]


def test_sums_that_change_shape_or_dtype_are_computed() -> None:
    def widened(x: Tensor) -> list[Tensor]:
        y = x.exp()
        return [
            y + torch.zeros(2, 3),
            y + torch.zeros(3, dtype=torch.float64),
            y * y.new_ones(2, 1),
        ]

    x = torch.ones(3, dtype=torch.float32)
    trace = recorded(widened, x)
    for found, expected in zip(trace([x]), widened(x), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_equal_calls_are_computed_once() -> None:
    trace = recorded(lambda x: [x.exp() * 2 + x.exp(), x.exp() * 2.0], torch.ones(3))
    assert targets(trace).count(str(torch.exp)) == 1
    x = torch.arange(3.0)
    assert torch.equal(trace([x])[0], 3 * x.exp())


def test_activation_checkpointing_keeps_its_effect() -> None:
    weight = torch.randn(300, 300).requires_grad_()

    def gradient(x: Tensor) -> list[Tensor]:
        y = checkpoint(lambda x: (x @ weight).tanh() @ weight, x, use_reentrant=False)
        return list(torch.autograd.grad(y.square().sum(), weight))

    trace = recorded(gradient, torch.randn(200, 300), owned=[weight])
    assert targets(trace).count(str(torch.tanh)) == 2


def test_equal_calls_are_computed_anew_where_something_has_changed_in_between() -> None:
    def counting(x: Tensor) -> list[Tensor]:
        y = x.exp()
        first, same = y * 2, y.view(3) * 1.0
        y[:1].add_(1.0)
        return [first, y * 2, same, y]

    x = torch.arange(3.0)
    trace = recorded(counting, x)
    assert all(map(torch.equal, trace([x]), counting(x)))


def test_batch_norm_changes_its_statistics() -> None:
    norm = nn.BatchNorm1d(3)

    def reading(x: Tensor) -> list[Tensor]:
        before = norm.running_mean * 2
        normalised = norm(x).detach()
        return [before, normalised, norm.running_mean * 2]

    x = torch.randn(8, 3)
    trace = recorded(reading, x, owned=[*norm.parameters(), *norm.buffers()])
    before, _, after = trace([x])
    assert not torch.equal(before, after)


def test_random_numbers_are_drawn_again_even_if_nobody_uses_them() -> None:
    def drawing(x: Tensor) -> list[Tensor]:
        torch.rand(3)
        return [F.dropout(x, 0.5)]

    x = torch.ones(100)
    trace = recorded(drawing, x)
    torch.manual_seed(1)
    expected = drawing(x)[0]
    torch.manual_seed(1)
    assert torch.equal(trace([x])[0], expected)
    assert not torch.equal(trace([x])[0], expected)


def test_buffers_change_as_in_the_function() -> None:
    norm, x = nn.BatchNorm1d(3), torch.randn(8, 3)
    trace = recorded(lambda x: [norm(x).detach()], x, owned=[*norm.parameters(), *norm.buffers()])
    before = norm.running_mean.clone()
    trace([x])
    assert norm.num_batches_tracked == 2
    assert not torch.equal(norm.running_mean, before)


def test_a_trace_is_invalid_once_a_constant_has_changed() -> None:
    factors, x = torch.ones(3), torch.ones(3)
    trace = recorded(lambda x: [x * factors], x)
    assert trace.is_valid()
    factors += 1
    assert not trace.is_valid()


@pytest.mark.parametrize("is_same", [lambda x: bool((x > 0).all()), lambda x: torch.equal(x, x)])
def test_conditions_have_to_be_the_same_again(is_same: Callable[[Tensor], bool]) -> None:
    trace = recorded(lambda x: [2 * x if is_same(x) else -x], torch.ones(3))
    assert trace([torch.full((3,), 5.0)])[0].tolist() == [10.0, 10.0, 10.0]
    with pytest.raises(TraceError, match="condition on values has changed"):
        trace([torch.tensor([1.0, torch.nan, 1.0])])


def counted(x: Tensor) -> list[Tensor]:
    CALLS.add_(1)
    return [x * CALLS]


CALLS = torch.zeros(())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: [x * x.sum().item()], "_local_scalar_dense.default depends on values"),
        (lambda x: [x if float(x[0]) > 0 else -x], "_local_scalar_dense.default depends on values"),
        (lambda x: [x[x > 0]], "indexed by a mask"),
        (lambda x: [x.nonzero()], "nonzero.default depends on values"),
        (lambda x: [(2 * x.to_sparse()).to_dense()], "layout torch.sparse_coo"),
        (lambda x: [torch.rand(3, generator=torch.Generator())], "takes a Generator"),
        (counted, "changed in place"),
    ],
)
def test_what_cannot_be_recorded_is_named(
    function: Callable[[Tensor], list[Tensor]], message: str
) -> None:
    assert message in recorded(function, torch.ones(3))


def test_the_function_runs_as_usual_where_it_cannot_be_recorded() -> None:
    x = torch.arange(3.0)
    trace, other = traced(lambda: ([x[x > 0]], x[x > 0].sum()), [x], [])
    assert isinstance(trace, str)
    assert other == 3


def test_numbers_from_numpy_are_constants_of_the_trace() -> None:
    x, factor = torch.ones(3), np.float64(2.0)
    trace = recorded(lambda x: [x * float(factor)], x)
    assert trace([x])[0].tolist() == [2.0, 2.0, 2.0]


def test_a_program_is_shared_by_recordings_of_the_same_calls() -> None:
    def affine(layer: nn.Linear, x: Tensor) -> list[Tensor]:
        return [layer(x).detach() + torch.ones(2)]

    layers, x = [nn.Linear(3, 2) for _ in range(2)], torch.randn(4, 3)
    traces = [recorded(partial(affine, one), x, owned=one.parameters()) for one in layers]
    assert traces[0].graph is traces[1].graph
    for layer, trace in zip(layers, traces, strict=True):
        assert torch.equal(trace([x])[0], affine(layer, x)[0])


@pytest.mark.parametrize(
    "other",
    [
        lambda x: [x * 2.0 + 1],
        lambda x: [x * 2 + 1, x],
        lambda x: [x * 2 + x],
        lambda x: [(x * 2).add(1, alpha=2)],
        lambda x: [x.double() * 2 + 1],
    ],
)
def test_a_program_is_not_shared_by_recordings_of_other_calls(
    other: Callable[[Tensor], list[Tensor]],
) -> None:
    x = torch.arange(3)
    for function in (lambda x: [x * 2 + 1], other):
        for found, expected in zip(recorded(function, x)([x]), function(x), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def test_a_program_is_of_tensors_of_the_same_kinds() -> None:
    x = torch.randn(3, 4)
    for given in (x, x.T.contiguous().T, x.float(), x[:1]):
        found = recorded(lambda x: [x.expand(3, 4) + 0.0 * x, x.reshape(-1)], given)([given])
        assert torch.equal(found[0], given.expand(3, 4))
        assert torch.equal(found[1], given.reshape(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_is_of_the_default_dtype(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)  # the fixture of this folder puts it back
    trace = recorded(lambda x: [x + torch.ones(2)], torch.arange(2))
    assert trace([torch.arange(2)])[0].dtype == dtype


def test_generators_are_those_of_the_recorded_call() -> None:
    def drawing(generator: torch.Generator) -> tuple[list[Tensor], None]:
        return [torch.rand(2, generator=generator)], None

    for _ in range(2):
        generator = torch.Generator()
        trace, _ = traced(partial(drawing, generator), [], [], holds_generators=True)
        assert isinstance(trace, Trace)
        expected = torch.rand(2, generator=torch.Generator().set_state(generator.get_state()))
        assert torch.equal(trace([])[0], expected)
