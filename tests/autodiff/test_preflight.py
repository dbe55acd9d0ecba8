"""What is found out about a model on its first batch, and what is said where it does not do."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from autodiff.models import PROBLEMS, Loss
from autodiff.problems import MODELS, batch, batches, convolutional, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.second_order import preflight
from optuna_hypergrad.autodiff.second_order import preflight as tryout
from optuna_hypergrad.autodiff.second_order.hvp import WAYS
from optuna_hypergrad.autodiff.second_order.preflight import Found
from optuna_hypergrad.autodiff.snapshot import GeneratorStates
from optuna_hypergrad.autodiff.weights import FlatWeights

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(preflight, "_found", {})
    yield


def sgd() -> SGD:
    return SGD(Schedule("lr", [0.1, 0.2]), momentum=Schedule("momentum", [0.5]))


def found(
    model: nn.Module, data: Batch, products: str = "auto", rows: int = 3, loss: Loss = loss_fn
) -> Found:
    objective = TrainingLoss(model, loss, FlatWeights(model))
    return preflight.preflight(objective, products, data, {}, rows)


class Square(Function):
    """Whose second derivative torch would pass over in silence."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(4, 5, mode="max")

    def forward(self, x: Tensor) -> Tensor:
        return self.words((x.abs() * 10).long() % 4)


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x.requires_grad_(), use_reentrant=True)


class Attentive(nn.Module):
    """What is replaced, attention, and beside it what cannot be."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(5, 1, 8, dropout=0.0, batch_first=True)
        self.encoder, self.squares = layer, Squares()

    def forward(self, x: Tensor) -> Tensor:
        return self.squares(self.encoder(x[:, None])[:, 0])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            Squares,
            r"The module is 1 \(Squares\): .*@once_differentiable\. Write its backward in op",
        ),
        (Bags, r"The module is 1\.words \(EmbeddingBag\): .* not implemented\. Write it in other"),
        (Reentrant, r"The module is 1 \(Reentrant\): .* Pass use_reentrant=False to torch\.utils"),
        (Attentive, r"The module is 1\.squares \(Squares\): .*@once_differentiable\."),
    ],
)
def test_what_cannot_be_differentiated_twice_is_named(
    make: Callable[[], nn.Module], message: str, mode: str
) -> None:
    model = nn.Sequential(nn.Linear(5, 5), make(), nn.Linear(5, 3))
    before, data = copy.deepcopy(model.state_dict()), batch(4)
    with pytest.raises(ValueError, match=f"^model: it has no second derivative, .*{message}"):
        hypergradient(model, loss_fn, sgd(), [data], data, steps=2, mode=mode)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_loss_is_named_where_no_module_is_at_fault() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.multi_margin_loss(model(batch[0]), batch[1])

    with pytest.raises(ValueError, match=r"see to what loss_fn calls: .*multi_margin_loss_backw"):
        hypergradient(mlp(), loss, sgd(), batches(2), batch(4), steps=2)


def test_errors_of_the_model_itself_come_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        hypergradient(mlp(), loss_fn, sgd(), [batch(4, features=4)], batch(4), steps=2)


# The ways that work for a model; torch.func draws other masks of dropout than autograd.
WORKS = {
    "mlp": {"loop", "batched", "forward", "forward-batched"},
    "batch norm": {"loop", "batched", "forward", "forward-batched"},
    "weight norm": {"loop", "batched", "forward", "forward-batched"},
    "transformer": {"loop", "batched"},
    "activation checkpointing": {"loop"},
    "activation checkpointing, batch norm": {"loop"},
}


def case(name: str) -> tuple[nn.Module, Batch, Loss]:
    if name in MODELS:
        return MODELS[name](), batch(6), loss_fn
    problem = PROBLEMS[name]
    return problem.make(), problem.batch(), problem.loss


@pytest.mark.parametrize("name", WORKS)
def test_ways_that_do_not_work_are_refused_and_not_chosen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(2.0**-n for n in range(100))

    def timed(work: Callable[[], object], *_: object) -> list[float]:
        """Finds whatever is tried later faster than what was tried before."""
        work()
        return [next(seconds)]

    monkeypatch.setattr(tryout, "timed", timed)
    monkeypatch.setattr(tryout, "_QUICK", math.inf)  # which have all ways tried
    model, data, loss = case(name)
    works = [way for way in WAYS if way in WORKS[name]]
    assert found(model, data, loss=loss).way == works[-1]
    for way in WAYS:
        if way in works:
            assert found(model, data, way, loss=loss).way == way
        else:
            with pytest.raises(ValueError, match=f"products='{way}' does not work for this model"):
                found(model, data, way, loss=loss)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"loop": 1.0, "batched": 0.9, "forward": 0.9, "forward-batched": 2.0}, "loop"),
        ({"loop": 1.0, "batched": 0.8, "forward": 0.9, "forward-batched": 2.0}, "batched"),
        ({"loop": 1.0, "batched": 0.8, "forward": 0.7, "forward-batched": 0.6}, "forward-batched"),
    ],
)
def test_another_way_is_taken_only_if_clearly_faster(
    times: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    products = tryout.Tryout._products

    def watched(self: tryout.Tryout, found: Found, along: object) -> Tensor:
        tried.append(found.way)
        return products(self, found, along)

    def timed(work: Callable[[], object], device: object, rounds: int) -> list[float]:
        tried.clear()
        work()
        return [times[tried[-1]] if tried else 0.0]

    monkeypatch.setattr(tryout.Tryout, "_products", watched)
    monkeypatch.setattr(tryout, "timed", timed)
    assert found(mlp(), batch(4)).way == expected
    one = found(mlp(), batch(4), rows=1).way
    assert one == ("forward" if times["forward"] < 0.85 else "loop")  # there is nothing to batch


def test_the_choice_is_remembered_for_like_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    fastest = tryout.Tryout.fastest

    def counted(self: tryout.Tryout) -> Found:
        searches.append(None)
        return fastest(self)

    monkeypatch.setattr(tryout.Tryout, "fastest", counted)
    data = batch(4)
    first = found(mlp(), data)
    assert found(mlp(), data) == first and len(searches) == 1
    for other in (convolutional(), mlp().eval(), mlp().requires_grad_(True).float()):
        found(other, (data[0].to(next(other.parameters()).dtype), data[1]))
    found(mlp(), batch(5))
    found(mlp(), data, rows=1)
    assert len(searches) == 6


class Activated(nn.Sequential):
    """Models of the same modules and weights that are not alike."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Linear(5, 4), nn.Linear(4, 3))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self.activation(self[0](x)))


def test_what_is_remembered_is_checked_again() -> None:
    data = batch(4)
    assert not found(Activated(torch.tanh), data).kernels.formulas
    with pytest.raises(ValueError, match=r"The module is the model itself \(Activated\): .*once"):
        found(Activated(Square.apply), data)
    lengths = torch.ones(4, 1)
    normed = found(Activated(lambda x: torch._weight_norm(x, lengths, 0)), data)
    assert normed.kernels.formulas


@pytest.mark.parametrize("way", ["auto", *WAYS])
def test_the_preflight_leaves_no_trace(way: str) -> None:
    model = nn.Sequential(MODELS["batch norm"](), nn.Dropout(0.5))
    model[0].eval()
    data, before = batch(6), copy.deepcopy(model.state_dict())
    states = GeneratorStates.now(torch.device("cpu"))
    modes = [m.training for m in model.modules()]
    with torch.no_grad():  # which is the caller's own matter
        found(model, data, way)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert GeneratorStates.now(torch.device("cpu")).unless_same_as(states) is states
    assert all(p.grad is None and p.is_leaf and p.requires_grad for p in model.parameters())
