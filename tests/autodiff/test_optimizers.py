"""The engine with every optimizer, against runs unrolled under autograd."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autodiff.oracle import piecewise, relative_error
from autodiff.problems import Partial, batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    ParameterGroups,
    Update,
    hypergradient,
)

STEPS = 14
MODES = {
    "forward": {"mode": "forward", "products": "loop"},
    "forward batched": {"mode": "forward", "products": "batched"},
    "reverse": {"mode": "reverse"},
    "checkpoints": {"mode": "reverse", "memory": 25_000},
}
ADAM = {
    "lr": Schedule("lr", [0.05, 0.02]),
    "beta1": Schedule("beta1", [0.9, 0.7]),
    "beta2": Schedule("beta2", [0.99, 0.9], "linear"),
    "eps": Schedule("eps", [1e-2]),
    "weight_decay": Schedule("wd", [0.1, 0.0]),
}
MOMENTUM = {
    "lr": Schedule("lr", [0.3, 0.1]),
    "momentum": Schedule("momentum", [0.5, 0.9]),
    "weight_decay": Schedule("wd", [0.05]),
}


def adam(made: type[Adam], **options) -> Adam:
    given = {k: v for k, v in ADAM.items() if not k.startswith("beta")}
    return made(betas=(ADAM["beta1"], ADAM["beta2"]), **given, **options)


# Each rule moves one parameter: (w, g, its state, h) → w. Written from torch's documentation.


def adam_rule(w: Tensor, g: Tensor, memory: dict, h: dict, *, decoupled=False, amsgrad=False):
    if decoupled:
        w = w - h["lr"] * h["weight_decay"] * w
    else:
        g = g + h["weight_decay"] * w
    memory["t"] = t = memory.get("t", 0) + 1
    memory["m"] = m = h["beta1"] * memory.get("m", 0.0) + (1 - h["beta1"]) * g
    memory["v"] = v = h["beta2"] * memory.get("v", 0.0) + (1 - h["beta2"]) * g * g
    if amsgrad:
        memory["largest"] = v = torch.maximum(v, memory.get("largest", torch.zeros_like(v)))
    m_hat, v_hat = m / (1 - h["beta1"] ** t), v / (1 - h["beta2"] ** t)
    return w - h["lr"] * m_hat / (v_hat.sqrt() + h["eps"])


def sgd_rule(w: Tensor, g: Tensor, memory: dict, h: dict) -> Tensor:
    memory["v"] = h["momentum"] * memory.get("v", 0.0) + g + h["weight_decay"] * w
    return w - h["lr"] * memory["v"]


def unrolled(
    model: nn.Module,
    rule: Callable[..., Tensor],
    hypers: dict,
    data: list,
    validation: object,
    clip: Callable[[list[Tensor], dict], list[Tensor]] = lambda gradients, h: gradients,
    own: Callable[[str, dict], dict] = lambda name, h: h,
) -> dict[str, float]:
    """Hypergradients; ``own`` gives a parameter its group's hyperparameters."""
    leaves = {
        name: torch.tensor(value, requires_grad=True)
        for h in hypers.values()
        if isinstance(h, Schedule)
        for name, value in h.params.items()
    }
    weights = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    memories: dict[str, dict] = {k: {} for k in weights}
    average: dict[str, Tensor] = {}

    def loss(one: tuple) -> Tensor:
        logits = functional_call(model, weights, (one[0],))
        return nn.functional.cross_entropy(logits, one[1])

    for step, one in enumerate(data):
        h = {
            k: piecewise(v, [leaves[n] for n in v.names], step, len(data))
            if isinstance(v, Schedule)
            else v
            for k, v in hypers.items()
        }
        gradients = torch.autograd.grad(
            loss(one), list(weights.values()), create_graph=True, allow_unused=True
        )
        used = {k: g for k, g in zip(weights, gradients, strict=True) if g is not None}
        for k, gradient in zip(used, clip([*used.values()], h), strict=True):
            weights[k] = rule(weights[k], gradient, memories[k], own(k, h))
        if "average_decay" in h:
            d = h["average_decay"]
            before = average or weights
            average = {k: d * before[k] + (1 - d) * w for k, w in weights.items()}
    weights = average or weights
    found = torch.autograd.grad(loss(validation), list(leaves.values()), allow_unused=True)
    return {k: 0.0 if s is None else float(s) for k, s in zip(leaves, found, strict=True)}


def by_norm(gradients: list[Tensor], h: dict) -> list[Tensor]:
    norm = torch.cat([s.flatten() for s in gradients]).norm()
    factor = torch.clamp(h["clip_norm"] / (norm + 1e-6), max=1.0)
    return [factor * s for s in gradients]


def by_value(gradients: list[Tensor], h: dict) -> list[Tensor]:
    return [torch.minimum(torch.maximum(s, -h["clip_value"]), h["clip_value"]) for s in gradients]


NORM, VALUE = Schedule("norm", [0.4]), Schedule("value", [0.03, 0.05])
GROUPS = {"lr_bias": Schedule("lr_bias", [0.2, 0.05]), "wd_bias": 0.0}


def grouped(model: nn.Module) -> Update:
    biases = {
        "params": lambda name, p: p.ndim == 1,
        "lr": GROUPS["lr_bias"],
        "weight_decay": GROUPS["wd_bias"],
    }
    return ParameterGroups(adam(AdamW), model, [biases])


def of_group(name: str, h: dict) -> dict:
    return {**h, "lr": h["lr_bias"], "weight_decay": h["wd_bias"]} if "bias" in name else h


def adamw_rule(*arguments) -> Tensor:
    return adam_rule(*arguments, decoupled=True)


def amsgrad_rule(*arguments) -> Tensor:
    return adam_rule(*arguments, amsgrad=True)


EMA = Schedule("ema", [0.9, 0.5])
CASES = {
    "adam": (lambda model: adam(Adam), ADAM, adam_rule, {}),
    "amsgrad": (lambda model: adam(Adam, amsgrad=True), ADAM, amsgrad_rule, {}),
    "adamw": (lambda model: adam(AdamW), ADAM, adamw_rule, {}),
    "clipped by norm": (
        lambda model: Clipped(SGD(**MOMENTUM), norm=NORM),
        {**MOMENTUM, "clip_norm": NORM},
        sgd_rule,
        {"clip": by_norm},
    ),
    "clipped by value": (
        lambda model: Clipped(SGD(**MOMENTUM), value=VALUE),
        {**MOMENTUM, "clip_value": VALUE},
        sgd_rule,
        {"clip": by_value},
    ),
    "averaged": (
        lambda model: Averaged(SGD(**MOMENTUM), EMA),
        {**MOMENTUM, "average_decay": EMA},
        sgd_rule,
        {},
    ),
    "groups": (grouped, {**ADAM, **GROUPS}, adamw_rule, {"own": of_group}),
    "all at once": (
        lambda model: Averaged(Clipped(grouped(model), norm=NORM), EMA),
        {**ADAM, **GROUPS, "clip_norm": NORM, "average_decay": EMA},
        adamw_rule,
        {"own": of_group, "clip": by_norm},
    ),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("make, hypers, rule, options", CASES.values(), ids=CASES)
def test_every_optimizer(make, hypers, rule, options, mode: dict) -> None:
    model, data, validation = mlp(), batches(STEPS), batch(20)
    expected = unrolled(copy.deepcopy(model), rule, hypers, data, validation, **options)
    found = hypergradient(model, loss_fn, make(model), data, validation, steps=STEPS, **mode)
    assert all(expected.values())
    assert relative_error(found.gradient, expected) <= 1e-9


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_weights_without_a_gradient_at_a_step_keep_their_own_count(mode: dict) -> None:
    model, data, validation = Partial(), batches(STEPS), batch(20)
    assert len({bool(x[0, 0] > 0) for x, _ in data}) == 2  # some steps leave out the second head
    if "memory" in mode:
        mode = {**mode, "memory": 60_000}
    expected = unrolled(copy.deepcopy(model), adam_rule, ADAM, data, validation)
    found = hypergradient(model, loss_fn, adam(Adam), data, validation, steps=STEPS, **mode)
    assert relative_error(found.gradient, expected) <= 1e-9
