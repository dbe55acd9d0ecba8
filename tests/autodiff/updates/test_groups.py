"""Parameter groups: which weights they hold, what stays frozen, and what every wrapper refuses."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from autodiff.updates.runs import Heads, batches, train
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff.updates import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    ParameterGroups,
    Update,
    evaluated,
)


@pytest.mark.parametrize(
    "update", [SGD(0.1, momentum=0.9, weight_decay=0.1), AdamW(0.1), Clipped(AdamW(0.1), norm=1.0)]
)
def test_weights_with_a_learning_rate_of_zero_stay_bit_identical(update: Update) -> None:
    model = Heads()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = ParameterGroups(update, model, [{"params": model.trunk.parameters(), "lr": 0.0}])
    train(model, groups, batches(20))
    stayed = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert stayed == {"trunk.weight", "trunk.bias"}


def test_frozen_weights_have_no_entry_and_tied_ones_have_one() -> None:
    model = Heads()
    model.trunk.requires_grad_(False)
    model.extra.weight = model.head.weight
    groups = [
        {"params": lambda name, p: name.endswith("bias"), "lr": 1.0},
        {"params": [model.extra.weight, model.trunk.weight], "lr": 2.0},
    ]
    update = ParameterGroups(SGD(0.0), model, groups)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    moved, _ = update(torch.zeros(count), (), -torch.ones(count), update.hypers)
    assert moved.tolist() == [2.0] * 18 + [1.0] * 3 + [1.0] * 3  # matrix, two biases


def test_groups_keep_the_precision_and_the_kind_of_the_weights() -> None:
    model = Heads()
    update = ParameterGroups(SGD(0.1), model, [{"params": model.head.weight, "lr": 0.3}])
    torch.set_default_dtype(torch.float32)
    weights = parameters_to_vector(model.parameters()).detach()
    moved, _ = update(weights, (), torch.ones_like(weights), update.hypers)
    assert moved.dtype == torch.float64
    assert set((weights - moved).mul(1e12).round().div(1e12).tolist()) == {0.1, 0.3}


@pytest.mark.parametrize(
    "wrap", [lambda u, m: Clipped(u, norm=1.0), lambda u, m: ParameterGroups(u, m, [])]
)
def test_wrappers_pass_on_the_weights_to_validate(wrap: Callable[[Update, Heads], Update]) -> None:
    model = Heads()
    weights = parameters_to_vector(model.parameters()).detach()
    inner = Averaged(SGD(0.1), decay=0.5)
    update = wrap(inner, model)
    state = (torch.ones_like(weights),)
    assert torch.equal(evaluated(update, weights, state), weights + 1)
    assert torch.equal(evaluated(update, weights, ()), weights)


REFUSED: dict[str, tuple[str, Callable[[Heads], Update]]] = {
    "no number": ("lr must be a number", lambda m: Adam("fast")),
    "a beta that is no number": ("beta2 must be a number", lambda m: Adam(0.1, (0.9, None))),
    "one beta": ("betas must be a pair", lambda m: AdamW(betas=0.9)),
    "no bound": ("value or norm", lambda m: Clipped(SGD(0.1))),
    "a bound that is no number": ("clip_norm must be", lambda m: Clipped(SGD(0.1), norm=True)),
    "no update": ("update must be one of", lambda m: Clipped(torch.optim.SGD, norm=1.0)),
    "clipped twice": (
        "already has a hyperparameter 'clip_norm'",
        lambda m: Clipped(Clipped(SGD(0.1), norm=2.0), norm=1.0),
    ),
    "averaged twice": (
        "already has a hyperparameter 'average_decay'",
        lambda m: Averaged(Averaged(SGD(0.1), 0.5), 0.5),
    ),
    "an average that is no number": ("average_decay must", lambda m: Averaged(SGD(0.1), "half")),
    "an unknown hyperparameter": (
        r"groups\[0\]: 'beta1' is none of lr, momentum",
        lambda m: ParameterGroups(SGD(0.1), m, [{"params": m.parameters(), "beta1": 0.5}]),
    ),
    "a value that is no number": (
        r"lr\[0\] must be a number",
        lambda m: ParameterGroups(SGD(0.1), m, [{"params": m.parameters(), "lr": "fast"}]),
    ),
    "grouped twice": (
        r"already has a hyperparameter 'lr\[0\]'",
        lambda m: grouped(grouped(SGD(0.1), m, m.parameters()), m, m.parameters()),
    ),
    "two groups": (
        "'head.weight' is in 2",
        lambda m: grouped(SGD(0.1), m, [m.head.weight], lambda name, p: p.ndim == 2),
    ),
    "nothing": (
        r"groups\[1\]: no parameter",
        lambda m: grouped(SGD(0.1), m, [m.head.weight], lambda name, p: name == "body"),
    ),
    "another model": (
        r"groups\[0\]: 'params' must be parameters of the model",
        lambda m: grouped(SGD(0.1), m, Heads().parameters()),
    ),
    "a module": ("got a Linear", lambda m: grouped(SGD(0.1), m, m.head)),
    "no params": ("got a NoneType", lambda m: grouped(SGD(0.1), m, None)),
}


def grouped(update: Update, model: Heads, *members: object) -> ParameterGroups:
    return ParameterGroups(update, model, [{"params": own, "lr": 1.0} for own in members])


@pytest.mark.parametrize("why", REFUSED)
def test_bad_input_is_explained(why: str) -> None:
    message, made = REFUSED[why]
    with pytest.raises(ValueError, match=message):
        made(Heads())


def test_groups_cannot_differ_in_the_bound_of_the_norm() -> None:
    model = Heads()
    group = {"params": model.head.weight, "clip_norm": Schedule("clip", [2.0])}
    update = ParameterGroups(Clipped(SGD(0.1), norm=math.inf), model, [group])
    with pytest.raises(ValueError, match="clip_norm bounds the whole gradient"):
        train(model, update, batches(1))


def test_clipping_by_a_larger_norm_changes_nothing() -> None:
    weights, gradient = torch.zeros(3), torch.tensor([3.0, 0.0, -4.0])
    for bound in (5.1, math.inf):
        clipped = Clipped(SGD(1.0), norm=bound)
        moved: Tensor = clipped(weights, (), gradient, clipped.hypers)[0]
        assert torch.equal(moved, -gradient)
