"""Runs that continue from the state of an earlier run, against ``torch.optim`` without a break."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from autodiff.oracle import finite_differences, relative_error
from autodiff.problems import Partial, batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    ForwardMode,
    Hypergradient,
    ParameterGroups,
    Update,
    hypergradient,
)
from optuna_hypergrad.checkpoints import decode, encode

FIRST, SECOND = 5, 7  # steps of the two segments
Optimizer = Callable[[list[nn.Parameter], dict[str, float]], torch.optim.Optimizer]
WAYS: dict[str, dict[str, Any]] = {
    "forward": {"mode": "forward"},
    "reverse": {"mode": "reverse"},
    "auto": {"mode": "auto"},
    "plain": {"learn": ()},
}
KINDS: dict[str, tuple[Callable[[dict[str, Any]], Update], Optimizer]] = {
    "sgd": (
        lambda h: SGD(h["lr"], momentum=h["beta"]),
        lambda ps, h: torch.optim.SGD(ps, h["lr"], momentum=h["beta"]),
    ),
    "nesterov": (
        lambda h: SGD(h["lr"], momentum=h["beta"], nesterov=True),
        lambda ps, h: torch.optim.SGD(ps, h["lr"], momentum=h["beta"], nesterov=True),
    ),
    "adam": (
        lambda h: Adam(h["lr"], (h["beta"], 0.99), 1e-3),
        lambda ps, h: torch.optim.Adam(ps, h["lr"], (h["beta"], 0.99), 1e-3),
    ),
    "amsgrad": (
        lambda h: AdamW(h["lr"], (h["beta"], 0.9), 1e-3, amsgrad=True),
        lambda ps, h: torch.optim.AdamW(ps, h["lr"], (h["beta"], 0.9), 1e-3, amsgrad=True),
    ),
}
VALUES = {"lr": 0.1, "beta": 0.8}


def schedules(values: dict[str, float]) -> dict[str, Schedule]:
    return {name: Schedule(name, [value]) for name, value in values.items()}


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Any]) -> None:
    for one in data:
        optimizer.zero_grad()
        loss_fn(model, one).backward()
        optimizer.step()


def segments(
    model: nn.Module, update: Update, data: list[Any], validation: Any, **way: Any
) -> list[Hypergradient]:
    """The results of two, where the second goes on from what a checkpoint gives back."""
    results: list[Hypergradient] = []
    state = None
    for part in (data[:FIRST], data[FIRST:]):
        results.append(
            hypergradient(
                model,
                loss_fn,
                update,
                part,
                validation,
                steps=len(part),
                state=state,
                **{"mode": "forward", **way},
            )
        )
        state = decode(encode({"state": results[-1].state}))["state"]
    return results


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("made", "optimizer"), KINDS.values(), ids=KINDS)
def test_two_segments_are_one_run_of_torch(
    made: Callable[[dict[str, Any]], Update], optimizer: Optimizer, way: dict[str, Any]
) -> None:
    model, data, validation = mlp(), batches(FIRST + SECOND), batch(20)
    expected = copy.deepcopy(model)
    segments(model, made(schedules(VALUES)), data, validation, **way)
    trained(expected, optimizer(list(expected.parameters()), VALUES), data)
    assert torch.allclose(vector(model), vector(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize(("made", "optimizer"), KINDS.values(), ids=KINDS)
def test_hypergradients_hold_the_state_that_came_in_fixed(
    made: Callable[[dict[str, Any]], Update], optimizer: Optimizer, mode: str
) -> None:
    model, data, validation = mlp(), batches(FIRST + SECOND), batch(20)
    start = copy.deepcopy(model)
    found = segments(model, made(schedules(VALUES)), data, validation, mode=mode)[1]
    before = optimizer(list(start.parameters()), VALUES)
    trained(start, before, data[:FIRST])

    def second(values: dict[str, float]) -> float:
        own = copy.deepcopy(start)
        after = optimizer(list(own.parameters()), values)
        options = after.state_dict()["param_groups"]
        after.load_state_dict({**copy.deepcopy(before.state_dict()), "param_groups": options})
        trained(own, after, data[FIRST:])
        return float(loss_fn(own, validation).detach())

    assert found.loss == pytest.approx(second(VALUES), rel=1e-12)
    assert relative_error(found.gradient, finite_differences(second, VALUES)) < 1e-7


@pytest.mark.parametrize("made", [made for made, _ in KINDS.values()], ids=KINDS)
def test_checkpoints_on_the_way_back_hold_the_state_that_came_in(
    made: Callable[[dict[str, Any]], Update],
) -> None:
    start, data, validation = mlp(), batches(FIRST + 30), batch(20)
    ways: tuple[dict[str, Any], ...] = ({"mode": "forward"}, {"mode": "reverse", "memory": 18_000})
    expected, found = (
        segments(copy.deepcopy(start), made(schedules(VALUES)), data, validation, **way)[1]
        for way in ways
    )
    assert found.recomputed > 0
    assert relative_error(found.gradient, expected.gradient) < 1e-10


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_two_segments_of_every_wrapper_are_one_run_of_torch(way: dict[str, Any]) -> None:
    """Averages are validated, and training goes on from the weights beside them."""
    model, data, validation = mlp(), batches(FIRST + SECOND), batch(20)
    expected = copy.deepcopy(model)
    h = schedules({**VALUES, "decay": 0.7, "norm": 0.3, "head": 0.02})
    groups = [{"params": [model[2].weight], "lr": h["head"]}]
    update = Averaged(
        Clipped(ParameterGroups(Adam(h["lr"], (h["beta"], 0.99), 1e-3), model, groups), norm=0.3),
        decay=h["decay"],
    )
    result = segments(model, update, data, validation, **way)[1]
    head = expected[2].weight
    others = [p for p in expected.parameters() if p is not head]
    optimizer = torch.optim.Adam(
        [{"params": others}, {"params": [head], "lr": 0.02}], 0.1, (0.8, 0.99), 1e-3
    )
    average = AveragedModel(expected, avg_fn=get_ema_avg_fn(0.7))
    for one in data:
        optimizer.zero_grad()
        loss_fn(expected, one).backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.3)
        optimizer.step()
        average.update_parameters(expected)
    assert torch.allclose(vector(model), vector(average.module), rtol=1e-12, atol=1e-14)
    expected_loss = float(loss_fn(average.module, validation).detach())
    assert result.loss == pytest.approx(expected_loss, rel=1e-12)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("made", "optimizer"), KINDS.values(), ids=KINDS)
def test_weights_that_no_step_reaches_keep_their_state(
    made: Callable[[dict[str, Any]], Update], optimizer: Optimizer, way: dict[str, Any]
) -> None:
    """The extra head is trained in the first segment, and in the last step of the second."""
    model, validation = Partial(), batch(20)
    data = [(x.abs(), y) for x, y in batches(FIRST + SECOND)]  # all reach the extra head
    data[FIRST:-1] = [(-x, y) for x, y in data[FIRST:-1]]
    expected = copy.deepcopy(model)
    segments(model, made(schedules(VALUES)), data, validation, **way)
    trained(expected, optimizer(list(expected.parameters()), VALUES), data)
    assert torch.allclose(vector(model), vector(expected), rtol=1e-12, atol=1e-14)


def test_steps_of_ones_own_go_on_too() -> None:
    model, data, validation = mlp(), batches(FIRST + SECOND), batch(20)
    expected = copy.deepcopy(model)
    update = KINDS["adam"][0](schedules(VALUES))
    state = None
    for part in (data[:FIRST], data[FIRST:]):
        run = ForwardMode(model, loss_fn, update, steps=len(part), state=state)
        for one in part:
            run.step(one)
        result = run.hypergradient(validation)
        run.finish()
        state = result.state
    trained(expected, KINDS["adam"][1](list(expected.parameters()), VALUES), data)
    assert torch.allclose(vector(model), vector(expected), rtol=1e-12, atol=1e-14)
    assert [part.shape for part in result.state] == [(), (57,), (57,)]


def test_momentum_survives_a_segment_at_momentum_zero() -> None:
    """torch keeps its buffer there, too."""
    model, data, validation = mlp(), batches(3), batch(20)
    expected, state = copy.deepcopy(model), None
    optimizer = torch.optim.SGD(expected.parameters(), 0.1)
    for momentum, one in zip((0.9, 0.0, 0.9), data, strict=True):
        update = SGD(0.1, momentum=momentum)
        result = hypergradient(
            model, loss_fn, update, [one], validation, mode="forward", steps=1, state=state
        )
        state = result.state
        optimizer.param_groups[0]["momentum"] = momentum
        trained(expected, optimizer, [one])
    assert torch.allclose(vector(model), vector(expected), rtol=1e-12, atol=1e-14)


def test_the_state_is_not_printed() -> None:
    result = hypergradient(
        mlp(), loss_fn, SGD(0.1, 0.9), batches(2), batch(20), mode="forward", steps=2
    )
    assert len(result.state) == 1
    assert "state" not in repr(result)


class Stateless:
    """An update without state."""

    @property
    def hypers(self) -> dict[str, float]:
        return {"lr": 0.1}

    def __call__(self, weights: Tensor, state: Any, gradient: Tensor, h: Any) -> Any:
        return weights - h["lr"] * gradient, ()


class OneWay(Stateless):
    """It validates other weights than it trains, and does not say how to come back."""

    def __call__(self, weights: Tensor, state: Any, gradient: Tensor, h: Any) -> Any:
        return weights - h["lr"] * gradient, (gradient,)

    def evaluated(self, weights: Tensor, state: Any) -> Tensor:
        return weights + state[0] if state else weights


def test_a_state_that_does_not_fit_is_refused_before_the_training() -> None:
    model, data, validation = mlp(), batches(2), batch(20)
    before = vector(model).clone()
    size = len(before)
    velocity, number = torch.zeros(size), torch.zeros(())
    momentum = SGD(0.1, momentum=0.9)
    bad: list[tuple[Update, Any, str]] = [
        (momentum, velocity, "state must be a tuple of tensors, or None, got tensor"),
        (momentum, {"v": velocity}, "state must be a tuple of tensors, or None, got {'v'"),
        (momentum, (1.0,), "state must be a tuple of tensors"),
        (momentum, (torch.zeros(9),), rf"state\[0\] must have shape \({size},\).*got \(9,\)"),
        (momentum, (velocity.float(),), r"state\[0\] must be torch.float64.*got torch.float32"),
        (momentum, (number,), rf"this SGD keeps tensors of shapes \[\({size},\)\], got .*\[\(\)\]"),
        (momentum, (number, velocity, velocity), "this SGD keeps tensors of shapes"),
        (Averaged(momentum, 0.9), (velocity,), "this Averaged keeps tensors of shapes"),
        (Adam(0.1), (velocity,), "this Adam keeps tensors of shapes"),
        (Adam(0.1, amsgrad=True), (number, velocity, velocity), "this Adam keeps tensors"),
        (Adam(0.1), (number, velocity, velocity, velocity), "this Adam keeps tensors"),
        (Stateless(), (velocity,), "this Stateless keeps no state, got shapes"),
        (OneWay(), (velocity,), "has evaluated.*but lacks its inverse trained"),
    ]
    for update, state, message in bad:
        for options in ({"mode": "forward"}, {"mode": "reverse"}, {"learn": ()}):
            with pytest.raises(ValueError, match=message):
                hypergradient(
                    model,
                    loss_fn,
                    update,
                    data,
                    validation,
                    steps=2,
                    state=state,
                    **{"mode": "forward", **options},
                )
    assert torch.equal(vector(model), before)
