import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optuna_hypergrad.checkpoints import (
    CheckpointError,
    decode,
    encode,
    load_optimizer,
    rng_state,
    set_rng_state,
)

Make = Callable[..., torch.optim.Optimizer]

# Each optimizer as one trial and as another constructs it.
OPTIMIZERS: dict[str, tuple[Make, dict[str, Any], dict[str, Any]]] = {
    "SGD": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.5, "nesterov": True},
    ),
    "Adam": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}, {"lr": 0.2, "betas": (0.5, 0.6)}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1}, {"lr": 0.2, "weight_decay": 0.5, "eps": 1e-3}),
    "RMSprop": (
        torch.optim.RMSprop,
        {"lr": 0.1, "momentum": 0.9, "centered": True},
        {"lr": 0.2, "momentum": 0.5, "alpha": 0.3, "centered": True},
    ),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    for _ in range(steps):
        scale = random.random() + np.random.rand()
        loss = (model(scale * torch.randn(16, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_to_the_bit(name: str) -> None:
    make, options, _ = OPTIMIZERS[name]
    model = network()
    optimizer = make(model.parameters(), **options)
    train(model, optimizer, steps=5)
    data = encode(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng_state()}
    )
    uninterrupted = train(model, optimizer, steps=5)

    other = network()
    resumed = make(other.parameters(), **options)
    state = decode(data)
    other.load_state_dict(state["model"])
    load_optimizer(resumed, state["optimizer"])
    set_rng_state(state["rng"])
    assert torch.equal(train(other, resumed, steps=5), uninterrupted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_stay_as_constructed(name: str) -> None:
    make, options, others = OPTIMIZERS[name]
    model = network()
    optimizer = make(model.parameters(), **options)
    train(model, optimizer, steps=3)

    clone = make(model.parameters(), **others)
    torch.optim.lr_scheduler.StepLR(clone, 1)
    constructed = [{**group} for group in clone.param_groups]
    load_optimizer(clone, decode(encode(optimizer.state_dict())))

    assert [{**group} for group in clone.param_groups] == constructed
    assert clone.param_groups[0]["initial_lr"] == 0.2
    for parameter in model.parameters():
        moments, stored = clone.state[parameter], optimizer.state[parameter]
        assert moments and moments.keys() == stored.keys()
        assert all(torch.equal(moments[key], stored[key]) for key in stored)


def test_a_schedule_of_the_stored_optimizer_is_not_restored() -> None:
    weights = [nn.Parameter(torch.zeros(2))]
    stored = torch.optim.SGD(weights, lr=0.1)
    torch.optim.lr_scheduler.StepLR(stored, 1)
    optimizer = torch.optim.SGD(weights, lr=0.5)
    load_optimizer(optimizer, stored.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "initial_lr" not in optimizer.param_groups[0]


def test_options_of_several_groups_stay_with_their_groups() -> None:
    one, two = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))

    def made(*rates: float) -> torch.optim.Optimizer:
        groups = [{"params": [p], "lr": lr} for p, lr in zip((one, two), rates, strict=True)]
        return torch.optim.SGD(groups, momentum=0.9)

    stored, optimizer = made(0.1, 0.2), made(0.3, 0.4)
    one.grad, two.grad = torch.ones(2), torch.ones(3)
    stored.step()
    load_optimizer(optimizer, stored.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.4]
    assert [optimizer.state[p]["momentum_buffer"].numel() for p in (one, two)] == [2, 3]


def test_moments_take_the_dtype_of_the_parameters() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, steps=1)
    double = network().double()
    clone = torch.optim.Adam(double.parameters())
    load_optimizer(clone, optimizer.state_dict())
    moments = [clone.state[p]["exp_avg"] for p in double.parameters()]
    assert all(m.dtype == torch.float64 for m in moments)


def test_clones_share_no_memory_and_the_stored_state_stays() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, steps=1)
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    clones = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for _ in range(2)]
    for clone in clones:
        load_optimizer(clone, state)
        train(model, clone, steps=1)
    for key, moments in before["state"].items():
        assert torch.equal(state["state"][key]["momentum_buffer"], moments["momentum_buffer"])
    assert state["param_groups"] == before["param_groups"]


def test_another_structure_is_refused() -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:]}], lr=0.1)
    for groups, found in (([weights], "[3]"), ([weights[:2], weights[2:]], "[2, 1]")):
        other = torch.optim.SGD([{"params": group} for group in groups], lr=0.1)
        with pytest.raises(CheckpointError) as caught:
            load_optimizer(optimizer, other.state_dict())
        message = f"optimizer: expected groups of [1, 2] parameters, got {found}."
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "state", [{}, None, {"state": {}}, {"param_groups": [{}]}, {"state": {}, "param_groups": [1]}]
)
def test_other_states_of_an_optimizer_are_refused(state: Any) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(CheckpointError, match=r"optimizer: expected its state_dict\(\), got"):
        load_optimizer(optimizer, state)


def drawn() -> list[float]:
    return [random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]


def test_random_numbers_continue() -> None:
    drawn()  # leaves half of a pair of Gaussians in the generators of Python and numpy
    state = encode(rng_state())
    first = [drawn() for _ in range(3)]
    set_rng_state(decode(state))
    assert [drawn() for _ in range(3)] == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_random_numbers_continue_on_cuda() -> None:
    torch.rand(3, device="cuda")
    state = encode(rng_state())
    first = torch.rand(3, device="cuda")
    set_rng_state(decode(state, device="cuda"))
    assert torch.equal(torch.rand(3, device="cuda"), first)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("cuda", None, "TypeError"),
        ("python", None, "TypeError"),
        ("python", (3, (2**99,) * 625, None), "OverflowError"),
        ("numpy", {}, "ValueError"),
        ("torch", torch.zeros(3, dtype=torch.uint8), "RuntimeError"),
        ("torch", None, "AttributeError"),
    ],
)
def test_other_states_of_generators_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"rng_state: cannot be restored here: .*{message}"):
        set_rng_state({**rng_state(), key: value})


def test_generators_of_absent_devices_are_ignored() -> None:
    state = rng_state()
    expected = torch.rand(2)
    absent = torch.cuda.device_count() * [torch.cuda.get_rng_state()] if state["cuda"] else []
    set_rng_state({**state, "cuda": [*absent, torch.zeros(16, dtype=torch.uint8)]})
    assert torch.equal(torch.rand(2), expected)
