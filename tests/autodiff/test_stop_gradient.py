"""Training gradients that stop somewhere, against central differences of plain torch trainings."""

import copy
import gc
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from autodiff.stopping import (
    PROBLEMS,
    Batch,
    Loss,
    Round,
    batch,
    cross_entropy,
    network,
    pseudo_labels,
    twin_networks,
)
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.relaxations import rounded, straight_through
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, StopState

STEPS, LRS, MOMENTUM = 6, [0.1, 0.07], 0.5
MODES = ("forward", "reverse")


def trained(model: nn.Module, loss: Loss, data: Batch, lrs: list[float], momentum: float) -> float:
    """The validation loss after a training with torch.optim."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lrs[0], momentum=momentum)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lrs[len(lrs) * step // STEPS]
        optimizer.zero_grad()
        loss(model, data).backward()
        optimizer.step()
    return float(loss(model, data).detach())


def differences(make: Callable[[], nn.Module], loss: Loss, data: Batch) -> dict[str, float]:
    def at(name: str, change: float) -> float:
        lrs = [lr + change * (name == f"lr_{i}") for i, lr in enumerate(LRS)]
        momentum = MOMENTUM + change * (name == "momentum")
        return trained(make(), loss, data, lrs, momentum)

    names = [*(f"lr_{i}" for i in range(len(LRS))), "momentum"]
    return {name: (at(name, 1e-6) - at(name, -1e-6)) / 2e-6 for name in names}


def check(
    make: Callable[[], nn.Module], loss: Loss, data: Batch, mode: str, products: str = "auto"
) -> None:
    expected = differences(make, loss, data)
    value = trained(make(), loss, data, LRS, MOMENTUM)
    update = SGD(Schedule("lr", LRS), momentum=Schedule("momentum", [MOMENTUM]))
    result = hypergradient(
        make(), loss, update, [data], data, steps=STEPS, mode=mode, products=products
    )
    assert result.loss == pytest.approx(value, rel=1e-12)
    assert result.gradient == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_hypergradient_is_that_of_the_training_that_ran(name: str, mode: str) -> None:
    make, loss = PROBLEMS[name]
    check(make, loss, batch(), mode)


@pytest.mark.parametrize("mode", MODES)
def test_one_weight_whose_loss_is_its_product_with_itself_detached(mode: str) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.3)
    x = torch.ones(1, 1, dtype=torch.float64)
    lr, steps = 0.1, 20
    result = hypergradient(
        model,
        lambda m, b: (m(b) * m(b).detach()).sum(),
        SGD(Schedule("lr", [lr])),
        [x],
        x,
        steps=steps,
        mode=mode,
    )
    # The training takes w for the gradient of w²: w ← (1 − lr)·w, and the loss is w² all the same.
    w = 1.3 * (1 - lr) ** steps
    derivative = -1.3 * steps * (1 - lr) ** (steps - 1)
    assert result.loss == pytest.approx(w * w, rel=1e-12)
    assert result.gradient["lr"] == pytest.approx(2 * w * derivative, rel=1e-10)


@pytest.mark.parametrize("products", ["loop", "batched", "forward", "forward-batched"])
@pytest.mark.parametrize("mode", MODES)
def test_every_method_to_take_products(products: str, mode: str) -> None:
    check(network, pseudo_labels, batch(), mode, products)


@pytest.mark.parametrize("mode", MODES)
def test_stops_that_begin_later_than_the_first_step(mode: str) -> None:
    def loss(m: nn.Sequential, b: tuple[Tensor, Tensor, bool]) -> Tensor:
        return twin_networks(m, b[:2]) if b[2] else cross_entropy(m, b[:2])

    x, y = batch()
    data = [(x, y, False), (x, y, True), (x, y, True)]
    model, e = network(), 1e-6

    def run(lr: float) -> float:
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=lr)
        for part in data:
            optimizer.zero_grad()
            loss(own, part).backward()
            optimizer.step()
        return float(cross_entropy(own, (x, y)).detach())

    expected = (run(0.1 + e) - run(0.1 - e)) / (2 * e)
    for products in ("loop", "forward"):
        result = hypergradient(
            copy.deepcopy(model),
            loss,
            SGD(Schedule("lr", [0.1])),
            data,
            (x, y, False),
            steps=3,
            mode=mode,
            products=products,
        )
        assert result.gradient["lr"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_learned_hyperparameters_of_a_loss_that_stops_gradients(mode: str) -> None:
    def loss(m: nn.Module, b: Batch, h: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            target = F.softmax(m(b[0]) * h["sharpness"], -1)
        own = -(F.log_softmax(m(b[0]), -1) * target).sum(-1).mean()
        return cross_entropy(m, b) + own * (h["weight"] + h["weight"].detach() ** 2)

    data, model, e = batch(), network(), 1e-6
    values = {"sharpness": 1.5, "weight": 0.4}

    def run(**changed: float) -> float:
        own, hypers = copy.deepcopy(model), {k: torch.tensor(v) for k, v in changed.items()}
        optimizer = torch.optim.SGD(own.parameters(), lr=0.2)
        for _ in range(4):
            optimizer.zero_grad()
            loss(own, data, hypers).backward()
            optimizer.step()
        return float(cross_entropy(own, data).detach())

    result = hypergradient(
        copy.deepcopy(model),
        loss,
        SGD(0.2),
        [data],
        data,
        steps=4,
        mode=mode,
        hypers={name: Schedule(name, [value]) for name, value in values.items()},
        validation_loss_fn=lambda m, b, h: cross_entropy(m, b),
    )
    for name, value in values.items():
        ends = [run(**{**values, name: value + s * e}) for s in (1, -1)]
        assert result.gradient[name] == pytest.approx((ends[0] - ends[1]) / (2 * e), rel=1e-6)


def test_what_is_stopped_looks_to_the_loss_as_in_torch() -> None:
    w = torch.ones(1, 3, requires_grad=True)
    with StopGradients(StopState()):
        detached = (w * 2).detach()
        with torch.no_grad():
            computed = w * 3 + detached
        assert not detached.requires_grad and not computed.requires_grad
        assert detached.is_leaf and computed.is_leaf
        assert computed.numpy().tolist() == [[5.0] * 3]
        assert copy.deepcopy(computed).sum().item() == 15.0
        assert (computed > 4).all()
        detached.mul_(2)
        assert detached.tolist() == [[4.0] * 3]
        assert computed.T.shape == (3, 1)


def test_a_view_writes_into_what_it_is_a_view_of() -> None:
    w = torch.ones(3, requires_grad=True)
    with StopGradients(StopState()), torch.no_grad():
        table = (w * 2).repeat(2, 1)
        table[0].mul_(3)
    assert table.tolist() == [[6.0] * 3, [2.0] * 3]


def test_hooks_and_functions_are_as_before_afterwards() -> None:
    apply, model = Function.apply, PROBLEMS["hook_of_a_parameter"][0]()
    hooks = dict(model[0].weight._backward_hooks)
    data = batch()
    hypergradient(
        model, cross_entropy, SGD(Schedule("lr", [0.1])), [data], data, steps=2, mode="reverse"
    )
    assert Function.apply == apply
    assert model[0].weight._backward_hooks == hooks


class Dirty(Function):
    """Rounds in place, which cannot be followed."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.copy_(torch.round(4 * x) / 4)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


stored = Round.apply


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", [lambda x: Dirty.apply(x * 1.0), lambda x: stored(x)])
def test_a_function_that_cannot_be_followed_is_refused(
    function: Callable[[Tensor], Tensor], mode: str
) -> None:
    def loss(m: nn.Sequential, b: Batch) -> Tensor:
        h = torch.tanh(m[0](b[0]))
        return F.cross_entropy(m[2](function(h) ** 2 + h), b[1])

    data = batch()
    with pytest.raises(ValueError, match=r"differs from central differences.*autograd\.Function"):
        hypergradient(network(), loss, SGD(Schedule("lr", [0.1])), [data], data, steps=2, mode=mode)


def test_straight_through_keeps_the_derivative_that_it_is_given() -> None:
    """Rounding stands still: the exact hypergradient through it is 0, the relaxed one is not."""
    x = torch.ones(1, 1, dtype=torch.float64)

    def result(round_: object) -> float:
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 1.3)

        def loss(m: nn.Module, b: Tensor) -> Tensor:
            return (round_(m(b)) - 3.0).square().sum()

        update = SGD(Schedule("lr", [0.01]))
        return hypergradient(model, loss, update, [x], x, mode="forward", steps=2).gradient["lr"]

    assert result(lambda y: Round.apply(y)) == 0.0
    relaxed = result(rounded)
    # g = 2·(1 − 3) at both steps, dg/dw is taken for 2, and dw/dlr = −2·g − lr·2·(−g).
    assert relaxed == pytest.approx(-4.0 * (8.0 - 0.01 * 2 * 4.0))
    assert result(lambda y: straight_through(y.round(), y)) == relaxed


def test_logging_what_is_detached_costs_no_third_derivative() -> None:
    seen: list[float] = []

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = cross_entropy(m, b)
        seen.append(float(value.detach() * 2))
        return value

    stops, model = StopState(), network()
    with StopGradients(stops):
        loss(model, batch())
    assert seen and not stops.found


def test_nothing_of_a_step_is_kept() -> None:
    data = batch()

    def kept() -> int:
        gc.collect()
        return sum(type(one) is StopState for one in gc.get_objects())

    before = kept()
    for mode in MODES:
        for name in ("pseudo_labels", "rounded", "detached_inside"):
            make, loss = PROBLEMS[name]
            update = SGD(Schedule("lr", [0.1]))
            hypergradient(make(), loss, update, [data], data, steps=5, mode=mode)
    assert kept() == before


def test_nothing_is_warned_of() -> None:
    data = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hypergradient(
            network(),
            pseudo_labels,
            SGD(Schedule("lr", [0.1])),
            [data],
            data,
            mode="forward",
            steps=2,
        )
