"""Whatever the schedules say is what the optimizer's steps run with."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from integrations.problems import EXPECTED, FOUND, STEPS, data, recorded
from optuna_hypergrad import Schedule, Schedules
from optuna_hypergrad.autodiff import SGD, Adam, hypergradient
from optuna_hypergrad.integrations import HyperparameterScheduler


def adam(**options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(nn.Linear(3, 1).parameters(), **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x, y = data()
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    optimizer.step()


def test_each_step_runs_with_the_values_of_that_step() -> None:
    model = nn.Linear(3, 1)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 3.0}]
    optimizer = torch.optim.AdamW(groups)
    scheduler, ran = HyperparameterScheduler(optimizer, FOUND, STEPS), recorded(optimizer)
    for _ in range(STEPS):
        train(model, optimizer)
        scheduler.step()
    assert ran == [[values] * 2 for values in EXPECTED]
    assert scheduler.values == EXPECTED[-1]  # and holds the last ones
    assert type(optimizer.param_groups[0]["betas"]) is tuple


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_training_with_torch_is_what_the_search_trained(kind: str) -> None:
    """The loss is that of the engine, which the schedules were found with."""
    lr, decay = Schedule("lr", [0.1, 0.02]), Schedule("weight_decay", [0.2, 0.01], "cosine")
    momentum, beta = Schedule("momentum", [0.9, 0.5]), Schedule("beta1", [0.5, 0.9])
    found = Schedules([lr, decay, momentum if kind == "sgd" else beta])
    update = (
        SGD(lr, momentum=momentum, weight_decay=decay)
        if kind == "sgd"
        else Adam(lr, betas=(beta, 0.999), weight_decay=decay)
    )
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    x, y = (part.double() for part in data())
    loss = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()  # noqa: E731
    other = copy.deepcopy(model)
    expected = hypergradient(model, loss, update, [(x, y)] * 7, (x, y), steps=7, learn=()).loss
    made = torch.optim.SGD if kind == "sgd" else torch.optim.Adam
    optimizer = made(other.parameters(), lr=9.0)
    scheduler = HyperparameterScheduler(optimizer, found, 7)
    for _ in range(7):
        optimizer.zero_grad()
        loss(other, (x, y)).backward()
        optimizer.step()
        scheduler.step()
    assert loss(other, (x, y)).item() == pytest.approx(expected, rel=1e-12)


def test_a_resumed_run_continues_at_its_step() -> None:
    optimizer = adam()
    scheduler = HyperparameterScheduler(optimizer, FOUND, STEPS)
    for _ in range(4):
        scheduler.step()
    saved = copy.deepcopy((scheduler.state_dict(), optimizer.state_dict()))
    fresh = adam(lr=7.0)
    resumed, ran = HyperparameterScheduler(fresh, FOUND, STEPS), recorded(fresh)
    fresh.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    fresh.step()
    resumed.step()
    fresh.step()
    assert ran == [[EXPECTED[4]], [EXPECTED[5]]]


def test_an_optimizer_restored_later_follows_from_the_next_step() -> None:
    optimizer = adam(lr=7.0)
    scheduler = HyperparameterScheduler(optimizer, FOUND, STEPS)
    optimizer.load_state_dict(adam(lr=5.0).state_dict())  # replaces the groups
    scheduler.set(3)
    assert optimizer.param_groups[0]["lr"] == EXPECTED[3]["lr"]


def test_names_may_differ_and_groups_have_their_own() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam([{"params": [model.weight]}, {"params": [model.bias]}])
    found = {n: Schedule(n, [v]) for n, v in [("rate", 0.1), ("bias_rate", 0.2), ("b", 0.7)]}
    uses = {"rate": "0.lr", "bias_rate": "1.lr", "b": "betas.1"}
    HyperparameterScheduler(optimizer, found, 5, uses=uses)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.7)] * 2


def test_a_tensor_keeps_its_identity() -> None:
    lr = torch.tensor(0.5)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = HyperparameterScheduler(optimizer, {"lr": Schedule("lr", [0.25, 0.125])}, 2)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr and lr.item() == 0.125


@pytest.mark.parametrize(
    "names, uses, message",
    [
        (["dropout"], None, r"'dropout' is no option of the optimizer \(lr, betas.0, betas.1, "),
        (["momentum"], None, "leave 'momentum' out, or name its option in ``uses``"),
        (["amsgrad"], None, "'amsgrad' is no option"),  # a flag
        (["betas"], None, "'betas' is no option"),
        (["lr"], {"lr": "2.lr"}, "'2.lr' is no option"),
        (["lr"], {"lr": "betas.2"}, "'betas.2' is no option"),
        (["lr"], {"lr": "params.0"}, "'params.0' is no option"),
        (
            ["lr"],
            {"lr": ".lr"},
            "uses: an option is like 'lr', 'betas.0', '1.lr' or 'critic.lr', got '.lr'",
        ),
        (["lr"], {"lr": "critic.lr"}, "'critic.lr' is no option"),
        (["lr"], {"rate": "lr"}, r"uses: 'rate' is none of the schedules \(lr\)"),
        (["lr", "rate"], {"rate": "0.lr"}, "uses: 'lr' and 'rate' are the same option"),
        (["beta1", "b"], {"b": "betas.0"}, "uses: 'beta1' and 'b' are the same option"),
    ],
)
def test_an_unknown_option_is_named(names: list[str], uses: Any, message: str) -> None:
    found = {name: Schedule(name, [0.1]) for name in names}
    with pytest.raises(ValueError, match=message):
        HyperparameterScheduler(adam(), found, 5, uses=uses)


def test_groups_that_share_a_tensor_have_rates_of_their_own() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.1), foreach=False)
    schedules = Schedules([Schedule("x", [0.25]), Schedule("y", [0.75])])
    HyperparameterScheduler(optimizer, schedules, 10, uses={"x": "0.lr", "y": "1.lr"})
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.25, 0.75]
