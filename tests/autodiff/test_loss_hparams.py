"""Hyperparameters inside the loss and of the initial weights, against the unrolled run."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from autodiff.oracle import piecewise, relative_error
from autodiff.problems import batch, batches, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, ForwardMode, hypergradient
from optuna_hypergrad.autodiff.relaxations import chosen, relaxed_dropout, rounded

STEPS = 9
METHODS = {
    "loop": {"products": "loop"},
    "batched": {"products": "batched"},
    "forward batched": {"products": "forward-batched"},
    "reverse": {"mode": "reverse"},
    "checkpoints": {"mode": "reverse", "memory": 200_000},
}


def smoothed(model: nn.Module, data: object, h: dict) -> Tensor:
    x, y = data
    logits = model(x)
    uniform = -F.log_softmax(logits, -1).mean()
    return (1 - h["smoothing"]) * F.cross_entropy(logits, y) + h["smoothing"] * uniform


def decayed(model: nn.Module, data: object, h: dict) -> Tensor:
    norms = {"first": model[0].weight.square().sum(), "last": model[2].weight.square().sum()}
    return F.cross_entropy(model(data[0]), data[1]) + sum(h[k] * v for k, v in norms.items())


def weighted(model: nn.Module, data: object, h: dict) -> Tensor:
    logits = model(data[0])
    return h["weight"] * F.cross_entropy(logits, data[1]) + (1 - h["weight"]) * logits.abs().mean()


def augmented(model: nn.Module, data: object, h: dict) -> Tensor:
    x, y = data
    return F.cross_entropy(model(x + h["strength"] * torch.randn_like(x)), y)


def tempered(model: nn.Module, data: object, h: dict) -> Tensor:
    return F.cross_entropy(model(data[0]) / h["temperature"], data[1])


def dropped(model: nn.Module, data: object, h: dict) -> Tensor:
    x = relaxed_dropout(data[0], h["rate"]) if model.training else data[0]
    return F.cross_entropy(model(x), data[1])


def activated(model: nn.Module, data: object, h: dict) -> Tensor:
    """Which activation the hidden layer has is a discrete hyperparameter."""
    hidden = model[0](data[0])
    one_hot = chosen(torch.stack([torch.as_tensor(h[k]) for k in ("tanh", "relu")]))
    return F.cross_entropy(
        model[2](one_hot[0] * torch.tanh(hidden) + one_hot[1] * torch.relu(hidden)), data[1]
    )


def powered(model: nn.Module, data: object, h: dict) -> Tensor:
    """How often the logits are added to themselves is an integer hyperparameter."""
    return F.cross_entropy(rounded(torch.as_tensor(h["times"])) * model(data[0]), data[1])


def linear(model: nn.Module, data: object, h: dict) -> Tensor:
    """Linear in the weights: the gradient changes with the hyperparameter alone."""
    return h["pull"] * sum(p.sum() for p in model.parameters())


def plain(model: nn.Module, data: object, h: dict) -> Tensor:
    return F.cross_entropy(model(data[0]), data[1])


CASES = {
    "label smoothing": (smoothed, {"smoothing": Schedule("smoothing", [0.1, 0.0, 0.3])}),
    "decay by layer": (
        decayed,
        {"first": Schedule("first", [0.1]), "last": Schedule("last", [0.05, 0.0], "linear")},
    ),
    "loss weight": (weighted, {"weight": Schedule("weight", [0.7])}),
    "augmentation": (augmented, {"strength": Schedule("strength", [0.0, 0.5])}),
    "temperature": (tempered, {"temperature": Schedule("temperature", [2.0, 0.5], log=True)}),
    "dropout rate": (dropped, {"rate": Schedule("rate", [0.2, 0.4])}),
    "discrete choice": (
        activated,
        {"tanh": Schedule("tanh", [0.3]), "relu": Schedule("relu", [-0.2])},
    ),
    "integer": (powered, {"times": Schedule("times", [1.7, 2.9])}),
    "linear": (linear, {"pull": Schedule("pull", [0.1])}),
    "shared with the update": (decayed, {"first": Schedule("wd", [0.02]), "last": 0.1}),
}


def update() -> SGD:
    return SGD(
        Schedule("lr", [0.3, 0.2]),
        momentum=Schedule("momentum", [0.6]),
        weight_decay=Schedule("wd", [0.02]),
    )


def scaled(weights: dict, h: dict) -> dict:
    return {
        "0.weight": h["scale"] * weights["0.weight"],
        "2.bias": h["scale"] ** 2 * torch.ones_like(weights["2.bias"]),
    }


def unrolled(
    model: nn.Module,
    loss: Callable,
    hypers: dict,
    data: list,
    validation: object,
    validation_loss: Callable,
    initial: Callable | None = None,
) -> dict[str, float]:
    """The gradient by autograd through the whole run, written anew."""
    given = {**update().hypers, **hypers}
    leaves = {
        name: torch.tensor(value, requires_grad=True)
        for h in given.values()
        if isinstance(h, Schedule)
        for name, value in h.params.items()
    }

    def at(step: int) -> dict:
        return {
            k: piecewise(h, [leaves[n] for n in h.names], step, len(data))
            if isinstance(h, Schedule)
            else h
            for k, h in given.items()
        }

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, fn: Callable, one: object, h: dict) -> Tensor:
            return fn(self.model, one, h)

    whole = Loss()
    weights = {k: p.detach().clone() for k, p in whole.named_parameters()}
    if initial is not None:
        named = {k.removeprefix("model."): w for k, w in weights.items()}
        weights |= {f"model.{k}": w for k, w in initial(named, at(0)).items()}
    weights = {k: w if w.requires_grad else w.requires_grad_() for k, w in weights.items()}
    velocity = {k: 0.0 for k in weights}
    for step, one in enumerate(data):
        h = at(step)
        value = functional_call(whole, weights, (loss, one, h))
        slopes = torch.autograd.grad(value, list(weights.values()), create_graph=True)
        for (k, w), g in zip(list(weights.items()), slopes, strict=True):
            velocity[k] = h["momentum"] * velocity[k] + g + h["weight_decay"] * w
            weights[k] = w - h["lr"] * velocity[k]
    whole.eval()
    end = functional_call(whole, weights, (validation_loss, validation, at(len(data) - 1)))
    slopes = torch.autograd.grad(end, list(leaves.values()), allow_unused=True)
    return {k: 0.0 if s is None else float(s) for k, s in zip(leaves, slopes, strict=True)}


def both(way: dict, loss: Callable, hypers: dict, **options) -> tuple[dict, dict]:
    """The hypergradient, and what the unrolled run says."""
    model, data, validation = mlp(), batches(STEPS), batch(20)
    validation_loss, initial = options.get("validation_loss_fn", loss), options.get("initial")
    torch.manual_seed(1)
    expected = unrolled(
        copy.deepcopy(model),
        loss,
        hypers,
        data,
        validation,
        validation_loss,
        initial,
    )
    torch.manual_seed(1)
    result = hypergradient(
        model,
        loss,
        update(),
        data,
        validation,
        steps=STEPS,
        hypers=hypers,
        **{"mode": "forward", **way},
        **options,
    )
    return result.gradient, expected


@pytest.mark.parametrize("way", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("loss, hypers", CASES.values(), ids=CASES)
def test_hyperparameters_of_the_loss(loss: Callable, hypers: dict, way: dict) -> None:
    found, expected = both(way, loss, hypers)
    assert all(
        expected[name] != 0.0
        for h in hypers.values()
        if not isinstance(h, float)
        for name in h.names
    )
    assert relative_error(found, expected) <= 1e-10


@pytest.mark.parametrize("way", METHODS.values(), ids=METHODS)
def test_the_direct_term_and_another_validation_loss(way: dict) -> None:
    hypers = {"temperature": Schedule("temperature", [2.0, 0.5])}
    tempered_found, tempered_expected = both(way, tempered, hypers)
    plain_found, plain_expected = both(way, tempered, hypers, validation_loss_fn=plain)
    assert relative_error(tempered_found, tempered_expected) <= 1e-10
    assert relative_error(plain_found, plain_expected) <= 1e-10
    assert plain_expected["temperature_1"] != pytest.approx(tempered_expected["temperature_1"])


@pytest.mark.parametrize("way", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("windows", [1, 3])
def test_initial_scale(windows: int, way: dict) -> None:
    # With windows, the initial weights see the value of the first alone, the loss sees all.
    hypers = {"scale": Schedule("scale", [1.3, 0.8, 1.1][:windows])}

    def loss(model: nn.Module, data: object, h: dict) -> Tensor:
        return h["scale"] * plain(model, data, h)

    found, expected = both(way, loss, hypers, initial=scaled)
    assert relative_error(found, expected) <= 1e-10
    found, expected = both(way, plain, hypers, initial=scaled)
    assert relative_error(found, expected) <= 1e-10
    assert all(found[f"scale_{i}"] == 0.0 for i in range(1, windows) if windows > 1)


@pytest.mark.parametrize("way", METHODS.values(), ids=METHODS)
def test_accumulated_batches_are_one_large_batch(way: dict) -> None:
    initial, data, validation = mlp(), batches(3 * STEPS), batch(20)
    whole = [
        tuple(map(torch.cat, zip(*data[3 * i : 3 * i + 3], strict=True))) for i in range(STEPS)
    ]
    hypers = {"smoothing": Schedule("smoothing", [0.1, 0.2])}
    accumulated, at_once = (
        hypergradient(
            copy.deepcopy(initial),
            smoothed,
            update(),
            some,
            validation,
            steps=STEPS,
            hypers=hypers,
            accumulate=count,
            **{"mode": "forward", **way},
        )
        for some, count in ((data, 3), (whole, 1))
    )
    assert accumulated.loss == pytest.approx(at_once.loss, rel=1e-12)
    assert relative_error(accumulated.gradient, at_once.gradient) <= 1e-10
    assert len(accumulated.train_losses) == STEPS


def test_a_training_loop_of_ones_own_passes_several_batches_to_a_step() -> None:
    initial, data, validation = mlp(), batches(2 * STEPS), batch(20)
    model = copy.deepcopy(initial)
    run = ForwardMode(model, plain, update(), steps=STEPS, hypers={})
    for i in range(STEPS):
        run.step(*data[2 * i : 2 * i + 2])
    whole = hypergradient(
        initial,
        plain,
        update(),
        data,
        validation,
        mode="forward",
        steps=STEPS,
        hypers={},
        accumulate=2,
    )
    assert run.hypergradient(validation).gradient == whole.gradient


def test_numbers_reach_the_loss_as_numbers_and_learned_values_as_tensors() -> None:
    seen = []

    def loss(model: nn.Module, data: object, h: dict) -> Tensor:
        seen.append(dict(h))
        return smoothed(model, data, h)

    hypers = {"smoothing": Schedule("smoothing", [0.1, 0.2]), "other": 3}
    data = batches(4)
    hypergradient(
        mlp(), loss, SGD(0.1), data, data[0], steps=4, hypers=hypers, learn=(), products="loop"
    )
    assert [h["smoothing"] for h in seen] == [0.1, 0.1, 0.2, 0.2, 0.2]  # the last: validation
    assert all(h["other"] == 3.0 for h in seen)
    hypergradient(mlp(), loss, SGD(0.1), data, data[0], mode="forward", steps=4, hypers=hypers)
    assert isinstance(seen[-1]["smoothing"], Tensor) and seen[-1]["smoothing"].shape == ()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_unknown_initial_weights_are_named(mode: str) -> None:
    data = batches(2)
    with pytest.raises(ValueError, match="initial: 'bias' is not a learned weight"):
        hypergradient(
            mlp(),
            plain,
            update(),
            data,
            data[0],
            steps=2,
            mode=mode,
            hypers={},
            initial=lambda weights, h: {"bias": torch.zeros(3)},
        )
