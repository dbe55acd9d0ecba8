"""What is found out about a model on its first batch, and what is said where it is refused."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autodiff.models import PROBLEMS, Loss
from autodiff.problems import MODELS, batch, batches, convolutional, loss_fn, mlp
from autodiff.second_order.problems import Square
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.generators import GeneratorStates
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.second_order import choose_hvp, preflight
from optuna_hypergrad.autodiff.second_order.hvp import HVP_METHODS
from optuna_hypergrad.autodiff.second_order.switching import Kernels
from optuna_hypergrad.autodiff.weights import FlatWeights

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_plans", {})


def sgd() -> SGD:
    return SGD(Schedule("lr", [0.1, 0.2]), momentum=Schedule("momentum", [0.5]))


def chosen(
    model: nn.Module, data: Batch, products: str = "auto", n_tangents: int = 3, loss: Loss = loss_fn
) -> str:
    """The name of the method that the preflight gives."""
    loss = TrainingLoss(model, loss, FlatWeights(model))
    method = preflight.preflight(loss, products, data, {}, n_tangents)
    return next(name for name, known in HVP_METHODS.items() if known is method)


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
        hypergradient(mlp(), loss, sgd(), batches(2), batch(4), mode="forward", steps=2)


def test_errors_of_the_model_itself_come_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        hypergradient(
            mlp(), loss_fn, sgd(), [batch(4, features=4)], batch(4), mode="forward", steps=2
        )


# The methods that work for a model; torch.func draws other masks of dropout than autograd.
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
def test_methods_that_do_not_work_are_refused_and_not_chosen(name: str) -> None:
    model, data, loss = case(name)
    assert chosen(model, data, loss=loss) == ("batched" if "batched" in WORKS[name] else "loop")
    for method in HVP_METHODS:
        if method in WORKS[name]:
            assert chosen(model, data, method, loss=loss) == method
        else:
            with pytest.raises(ValueError, match=f"products='{method}' does not work for this mo"):
                chosen(model, data, method, loss=loss)


def test_batching_is_for_several_tangents_and_small_tensors() -> None:
    data = batch(4)
    assert [chosen(mlp(), data, n_tangents=n) for n in (1, 2, 3)] == ["loop", "loop", "batched"]
    wide = nn.Sequential(nn.Linear(5, 2**14), nn.Linear(2**14, 3))
    assert chosen(wide, batch(8)) == "batched"  # 8 · 2¹⁴ hidden numbers are the limit
    assert chosen(wide, batch(9)) == "loop"


def test_the_answer_is_remembered_for_like_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    plan = choose_hvp.FirstBatch.plan

    def counted(self: choose_hvp.FirstBatch, *arguments: Any) -> choose_hvp.Plan:
        searches.append(None)
        return plan(self, *arguments)

    monkeypatch.setattr(choose_hvp.FirstBatch, "plan", counted)
    data = batch(4)
    first = chosen(mlp(), data)
    assert chosen(mlp(), data) == first and len(searches) == 1
    for other in (convolutional(), mlp().eval(), mlp().requires_grad_(True).float()):
        chosen(other, (data[0].to(next(other.parameters()).dtype), data[1]))
    chosen(mlp(), batch(5))
    chosen(mlp(), data, n_tangents=1)
    assert len(searches) == 6
    for rate in (0.2, 0.5):  # one search, since a rate does not decide whether there is a mask
        chosen(nn.Sequential(nn.Dropout(rate), mlp()), data)
    assert len(searches) == 7
    chosen(nn.Sequential(nn.Dropout(0.0), mlp()), data)
    assert len(searches) == 8


class Activated(nn.Sequential):
    """Models of the same modules and weights that are not alike."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Linear(5, 4), nn.Linear(4, 3))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self.activation(self[0](x)))


def test_models_that_differ_in_an_attribute_are_not_alike() -> None:
    data = batch(4)

    def kernels(activation: Callable[[Tensor], Tensor]) -> Kernels:
        chosen(Activated(activation), data)
        return list(preflight._plans.values())[-1].kernels

    assert not kernels(torch.tanh).formulas
    with pytest.raises(ValueError, match=r"The module is the model itself \(Activated\): .*once"):
        kernels(Square.apply)
    lengths = torch.ones(4, 1)
    assert kernels(lambda x: torch._weight_norm(x, lengths, 0)).formulas


@dataclass
class Settings:
    """Attributes of objects count, too."""

    name: str = "tanh"
    rate: float = 0.1


class Configured(nn.Linear):
    def __init__(self, settings: Settings) -> None:
        super().__init__(5, 3)
        self.settings, self.calls = settings, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x)
        return super().forward(Square.apply(x) if self.settings.name == "square" else x)


def test_signatures_hold_no_data_and_see_what_decides() -> None:
    def signature(name: str = "tanh", rate: float = 0.1, scale: float = 1.0) -> object:
        def loss(model: nn.Module, data: Batch) -> Tensor:
            return scale * loss_fn(model, data)

        model = Configured(Settings(name, rate))
        return preflight.signature_of(TrainingLoss(model, loss, FlatWeights(model)), batch(4), {})

    assert signature() == signature(rate=0.3, scale=2.0)
    assert signature() != signature("square") and signature() != signature(scale=0.0)
    left = [signature()]
    while left:
        part = left.pop()
        assert not isinstance(part, Tensor | nn.Module)
        assert isinstance(part, type) or not callable(part)
        left.extend(part if isinstance(part, tuple) else ())


@pytest.mark.parametrize("products", ["auto", *HVP_METHODS])
def test_the_preflight_leaves_no_trace(products: str) -> None:
    model = nn.Sequential(MODELS["batch norm"](), nn.Dropout(0.5))
    model[0].eval()
    data, before = batch(6), copy.deepcopy(model.state_dict())
    states = GeneratorStates.now(torch.device("cpu"))
    modes = [m.training for m in model.modules()]
    with torch.no_grad():  # which is the caller's own matter
        chosen(model, data, products)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert GeneratorStates.now(torch.device("cpu"), before=states) is states
    assert all(p.grad is None and p.is_leaf and p.requires_grad for p in model.parameters())
