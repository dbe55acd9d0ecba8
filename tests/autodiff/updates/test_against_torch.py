"""Every update against torch.optim itself, its clipping functions and its averaged model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector
from torch.optim.swa_utils import AveragedModel

from autodiff.updates.runs import Batch, Heads, batches, loss_fn, train, updates, values
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff.updates import SGD, Adam, AdamW, Update, evaluated

STEPS = 100
CONSTANT = updates(lambda name, value: value)
SCHEDULED = updates(
    lambda name, value: Schedule(name, [value, 0.7 * value, 1.02 * value], "cosine")
)
DEFAULTS: dict[str, Callable[[Heads], Update]] = {
    "adam as torch has it": lambda model: Adam(),
    "adamw as torch has it": lambda model: AdamW(),
    "amsgrad as torch has it": lambda model: Adam(amsgrad=True),
}
SCHEDULED_CASES = {f"{name}, scheduled": made for name, made in SCHEDULED.items()}
CASES = {
    **DEFAULTS,
    **CONSTANT,
    **SCHEDULED_CASES,
    "momentum from zero": lambda model: SGD(
        0.1, Schedule("momentum", [0.0, 0.9]), dampening=0.5, keep_buffer=False
    ),
}
AVERAGE = {
    "averaged",
    "all",
    "all in another order",
}  # unlike in torch, it stays for weights without a gradient


def torch_optimizer(update: Update, model: Heads) -> torch.optim.Optimizer:
    """torch's own of what ``update`` wraps; its hyperparameters are set at each step."""
    inner = update
    while hasattr(inner, "update"):
        inner = inner.update
    biases = [model.trunk.bias, model.head.bias, model.extra.bias]
    weights = [model.trunk.weight, model.head.weight]
    groups = [{"params": p} for p in (weights, biases, [model.extra.weight])]
    if isinstance(inner, SGD):
        momentum = 0.0 if inner.momentum == 0.0 else 0.9
        return torch.optim.SGD(groups, 0.1, momentum, nesterov=inner.nesterov)
    kind = torch.optim.AdamW if isinstance(inner, AdamW) else torch.optim.Adam
    return kind(groups, amsgrad=inner.amsgrad)


def set_values(optimizer: torch.optim.Optimizer, hypers: dict[str, float]) -> None:
    """Give each of torch's groups its values; the first holds what is in no group of ours."""
    for number, group in enumerate(optimizer.param_groups):
        for name in {name.split("[")[0] for name in hypers}:
            value = hypers.get(f"{name}[{number - 1}]", hypers[name])
            if name in ("beta1", "beta2"):
                first, second = group["betas"]
                group["betas"] = (value, second) if name == "beta1" else (first, value)
            elif name in group:
                group[name] = value


def torch_run(update: Update, model: Heads, data: list[Batch]) -> tuple[nn.Module, ...]:
    """The model that torch trains, and the one that it averages."""
    optimizer, hypers = torch_optimizer(update, model), dict[str, float]()
    averaged = AveragedModel(
        model, avg_fn=lambda a, w, count: a + (1 - hypers.get("average_decay", 0.0)) * (w - a)
    )
    for step, batch in enumerate(data):
        hypers.update(values(update, step, len(data)))
        set_values(optimizer, hypers)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        if "clip_value" in hypers:
            clip_grad_value_(model.parameters(), hypers["clip_value"])
        if "clip_norm" in hypers:
            clip_grad_norm_(model.parameters(), hypers["clip_norm"])
        optimizer.step()
        averaged.update_parameters(model)
    return model, averaged.module


def difference(found: Tensor, model: nn.Module) -> float:
    expected = parameters_to_vector(model.parameters()).detach()
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str) -> None:
    check(name, Heads(), batches(STEPS), 1e-13)


@pytest.mark.parametrize("name", [*DEFAULTS, *SCHEDULED_CASES])
def test_equals_torch_in_single_precision(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    check(name, Heads(), batches(STEPS), 2e-6)


@pytest.mark.parametrize("name", [*DEFAULTS, *CONSTANT])
def test_equals_torch_if_a_head_is_used_late(name: str) -> None:
    check(name, Heads(), batches(60, lambda step: step >= 20), 1e-13)


@pytest.mark.parametrize("name", [name for name in [*DEFAULTS, *CONSTANT] if name not in AVERAGE])
def test_equals_torch_if_a_head_is_used_now_and_then(name: str) -> None:
    check(name, Heads(), batches(60, lambda step: step % 7 in (3, 4)), 1e-13)


@pytest.mark.parametrize("name", SCHEDULED)
def test_learned_hyperparameters_train_as_numbers_do(name: str) -> None:
    model, data = Heads(), batches(30)
    twin = copy.deepcopy(model)
    found, _ = train(model, SCHEDULED[name](model), data, torch.tensor)
    expected, _ = train(twin, SCHEDULED[name](twin), data)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def check(name: str, model: Heads, data: list[Batch], tolerance: float) -> None:
    twin = copy.deepcopy(model)
    update = CASES[name](model)
    before = parameters_to_vector(model.parameters()).detach()
    weights, state = train(model, update, data)
    trained, averaged = torch_run(update, twin, data)
    assert (weights - before).abs().max() > 0.03  # it has moved
    assert difference(weights, trained) < tolerance
    if "average_decay" in update.hypers:
        assert difference(evaluated(update, weights, state), averaged) < tolerance
        assert difference(weights, averaged) > 1e-3
    else:
        assert evaluated(update, weights, state) is weights


def test_bias_correction_is_exact_at_the_first_steps_in_single_precision() -> None:
    torch.set_default_dtype(torch.float32)
    adam, weights, state = Adam(1.0), torch.zeros(50), ()
    twin = torch.zeros(50, requires_grad=True)
    optimizer = torch.optim.Adam([twin], 1.0)
    for twin.grad in torch.randn(3, 50):
        weights, state = adam(weights, state, twin.grad, adam.hypers)
        optimizer.step()
    torch.testing.assert_close(weights, twin.detach(), rtol=1e-6, atol=1e-6)
