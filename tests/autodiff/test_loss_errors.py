"""Learned values where torch takes only numbers: the error says what to do instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.oracle import finite_differences, relative_error
from autodiff.problems import Batch, batch, batches, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

STEPS = 6
Loss = Callable[[nn.Module, Batch, Any], Tensor]


def loss_of(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Loss:
    return lambda model, batch, hypers: function(model(batch[0]), batch[1], hypers["value"])


REFUSED: dict[str, tuple[Loss, str]] = {
    "label smoothing": (
        loss_of(lambda z, y, h: F.cross_entropy(z, y, label_smoothing=h)),
        "label_smoothing",
    ),
    "dropout": (loss_of(lambda z, y, h: F.cross_entropy(F.dropout(z, h), y)), "dropout"),
    "nn.Dropout": (loss_of(lambda z, y, h: F.cross_entropy(nn.Dropout(h)(z), y)), "dropout"),
    "huber": (loss_of(lambda z, y, h: F.huber_loss(z, z * 0 + 1, delta=h)), "delta"),
    "class weights": (
        loss_of(lambda z, y, h: F.cross_entropy(z, y, weight=torch.stack([h, 1 - h, h]))),
        "weight",
    ),
    "slope": (loss_of(lambda z, y, h: F.cross_entropy(F.leaky_relu(z, h), y)), "negative_slope"),
    "margin": (
        loss_of(lambda z, y, h: F.triplet_margin_loss(z, z * 2, z * 3, margin=h)),
        "margin",
    ),
    "noise": (
        loss_of(lambda z, y, h: F.cross_entropy(z + torch.normal(0.0, h, (8, 3)), y)),
        "normal",
    ),
    "count": (loss_of(lambda z, y, h: F.cross_entropy(z, y) * sum(range(h))), "index"),
    "array": (loss_of(lambda z, y, h: F.cross_entropy(z, y) * h.numpy()), "numpy"),
}


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("name", REFUSED)
def test_learned_values_where_torch_takes_numbers(name: str, mode: str) -> None:
    loss, argument = REFUSED[name]
    data = batches(STEPS)
    pattern = f"(?s)loss_fn: .*{argument}.*hypers that are learned .'value'.*relaxations"
    with pytest.raises(TypeError, match=pattern) as caught:
        hypergradient(
            mlp(),
            loss,
            SGD(0.1),
            data,
            data[0],
            steps=STEPS,
            mode=mode,
            hypers={"value": Schedule("value", [0.2])},
        )
    assert caught.value.__cause__ is not None


def test_errors_of_the_loss_itself_stay_as_they_are() -> None:
    def wrong(model: nn.Module, batch: Batch, hypers: Any) -> Tensor:
        raise TypeError("a fault of one's own")

    data = batches(STEPS)
    with pytest.raises(TypeError, match=r"^a fault of one's own$"):
        own = {"value": Schedule("value", [0.2])}
        hypergradient(
            mlp(), wrong, SGD(0.1), data, data[0], mode="forward", steps=STEPS, hypers=own
        )
    with pytest.raises(TypeError, match=r"^linear"):
        hypergradient(
            mlp(),
            lambda m, b: m(b).mean(),
            SGD(0.1),
            [("x",)],
            data[0],
            mode="forward",
            steps=STEPS,
        )


def test_the_formula_that_is_named_is_that_of_torch() -> None:
    """Its values are torch's own label smoothing's, its hypergradient that of differences."""
    torch.manual_seed(1)
    initial, data, validation = mlp().state_dict(), batches(STEPS), batch(20)

    def plain(model: nn.Module, batch: Batch, hypers: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def formula(model: nn.Module, batch: Batch, hypers: Any) -> Tensor:
        z, y, s = model(batch[0]), batch[1], hypers["s"]
        return (1 - s) * F.cross_entropy(z, y) - s * F.log_softmax(z, dim=-1).mean()

    def of_torch(params: dict[str, float]) -> float:
        model = mlp()
        model.load_state_dict(initial)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, label_smoothing=params["s"]).backward()
            optimizer.step()
        return float(plain(model, validation, None).detach())

    model = mlp()
    model.load_state_dict(initial)
    result = hypergradient(
        model,
        formula,
        SGD(0.3),
        data,
        validation,
        steps=STEPS,
        mode="reverse",
        hypers={"s": Schedule("s", [0.1])},
        validation_loss_fn=plain,
    )
    assert result.loss == pytest.approx(of_torch({"s": 0.1}), rel=1e-12)
    expected = finite_differences(of_torch, {"s": 0.1})
    assert relative_error(result.gradient, expected) < 1e-7
