"""Buffers of every layout are copied, compared and put back."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import Batch, batch, batches, loss_fn
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.snapshot import buffers_of, put_back

STEPS = 20


def nan() -> Tensor:
    return torch.tensor([1.0, float("nan"), 2.0])


def inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "uncoalesced": lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 4)),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "mkldnn": lambda: torch.eye(4, dtype=torch.float32).to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(4).float(), 0.1, 0, torch.qint8),
    "complex": lambda: torch.eye(4) * (1 + 1j),
    "conjugated": lambda: (torch.eye(4) * (1 + 1j)).conj(),
    "negated": lambda: (torch.eye(4) * (1 + 1j)).conj().imag,
    "boolean": lambda: torch.eye(4) > 0,
    "integer": lambda: torch.arange(4),
    "half": lambda: torch.eye(4).bfloat16(),
    "eighth": lambda: torch.eye(4).to(torch.float8_e4m3fn),
    "strided": lambda: torch.arange(16.0).view(4, 4).t()[::2],
    "number": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 3),
    "not a number": nan,
    "expanded": lambda: torch.ones(1).expand(5),
    "inference": inference,
    "meta": lambda: torch.empty(3, device="meta"),
}


class With(nn.Module):
    """A linear layer beside a buffer."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)
        self.register_buffer("buffer", buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.filterwarnings("ignore")  # torch warns that some layouts are in beta
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_buffer_may_have_any_layout(name: str) -> None:
    initial, data = With(LAYOUTS[name]()), batches(STEPS)
    update = SGD(Schedule("lr", [0.1]))
    _, expected = oracle_gradient(_plain(initial), loss_fn, update, data, lambda of: of(data[0]))
    for options in ({"mode": "forward"}, {"mode": "reverse"}, {"mode": "reverse", "memory": 2_000}):
        model = _plain(initial)
        model.buffer = initial.buffer
        result = hypergradient(
            model, loss_fn, update, data, data[0], steps=STEPS, **{"mode": "forward", **options}
        )
        assert relative_error(result.gradient, expected) < 1e-10
        assert model.buffer is initial.buffer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYOUTS)
def test_equal_buffers_are_stored_once(name: str) -> None:
    model = With(LAYOUTS[name]())
    before = buffers_of(model.modules())
    assert buffers_of(model.modules(), before)[0] is before[0]
    assert before[0].bytes >= 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["sparse", "csr", "mkldnn", "complex", "conjugated", "number", "not a number"]
)
def test_what_has_changed_is_put_back(name: str) -> None:
    model, fresh = With(LAYOUTS[name]()), LAYOUTS[name]()
    before = buffers_of(model.modules())
    model.buffer.mul_(2.0)
    assert buffers_of(model.modules(), before)[0] is not before[0]
    put_back(before)
    assert buffers_of(model.modules(), before)[0] is before[0]
    torch.testing.assert_close(
        model.buffer.to_dense(), fresh.to_dense(), rtol=0, atol=0, equal_nan=True
    )


class Graph(nn.Module):
    """A graph network; its sparse adjacency fades in place at every training step."""

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        ring = torch.eye(8).roll(1, 0) + torch.eye(8)
        self.register_buffer("adjacency", ring.to_sparse(layout=layout))

    def forward(self, x: Tensor) -> Tensor:
        adjacency = self.adjacency.clone()
        if self.training:
            self.adjacency.mul_(0.9)
        return adjacency @ self.second(torch.tanh(adjacency @ self.first(x)))


def _plain(model: With) -> With:
    """A copy of the model whose buffer is a dense one."""
    plain = With(torch.zeros(1))
    plain.inner.load_state_dict(copy.deepcopy(model.inner.state_dict()))
    return plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.parametrize(
    "options",
    [{"mode": "forward"}, {"mode": "reverse"}, {"mode": "reverse", "memory": 16_000}],
    ids=str,
)
def test_a_graph_network(layout: torch.layout, options: dict[str, object]) -> None:
    data = batches(STEPS, 8)
    validation: Batch = batch(8)
    update = SGD(Schedule("lr", [0.2, 0.1]), Schedule("momentum", [0.5]))
    loss, expected = oracle_gradient(
        Graph(layout), loss_fn, update, data, lambda of: of(validation)
    )
    result = hypergradient(
        Graph(layout),
        loss_fn,
        update,
        data,
        validation,
        steps=STEPS,
        **{"mode": "forward", **options},
    )
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(result.gradient, expected) < 1e-9
