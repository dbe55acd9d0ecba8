"""Forward mode against independent judges: unrolled autograd, and central differences."""

import copy

import pytest
import torch
from torch import nn

from autodiff.oracle import finite_differences, oracle_gradient, relative_error
from autodiff.problems import MODELS, batch, batch_norm, batches, dropout, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, ForwardMode, hypergradient

STEPS = 12

UPDATES = {
    "lr": SGD(Schedule("lr", [0.3])),
    "lr windows": SGD(Schedule("lr", [0.3, 0.2, -0.1, 0.4])),
    "a window for each step": SGD(Schedule("lr", [0.1 * (i % 4) for i in range(STEPS)])),
    "momentum": SGD(0.2, momentum=Schedule("momentum", [0.8])),
    "weight decay": SGD(0.2, weight_decay=Schedule("wd", [0.1, 0.0])),
    "dampening": SGD(0.3, momentum=0.9, dampening=Schedule("dampening", [0.2, 0.6])),
    "all": SGD(
        Schedule("lr", [0.3, 0.2, 0.1]),
        momentum=Schedule("momentum", [0.5, 0.9]),
        weight_decay=Schedule("wd", [0.01]),
        dampening=Schedule("dampening", [0.1]),
    ),
    "all from zero": SGD(
        Schedule("lr", [0.0, 0.0]),
        momentum=Schedule("momentum", [0.0]),
        weight_decay=Schedule("wd", [0.0]),
    ),
    "momentum leaves zero": SGD(0.2, momentum=Schedule("momentum", [0.0, 0.9]), dampening=0.5),
    "nesterov": SGD(
        Schedule("lr", [0.3, 0.2]),
        momentum=Schedule("momentum", [0.0, 0.9]),
        weight_decay=Schedule("wd", [0.01]),
        nesterov=True,
    ),
    "linear and cosine": SGD(
        Schedule("lr", [0.3, 0.1, 0.2], "linear"), momentum=Schedule("m", [0.5, 0.9], "cosine")
    ),
    "geometric": SGD(
        Schedule("lr", [0.3, 0.01], "cosine", log=True),
        weight_decay=Schedule("wd", [1e-2, 1e-3], log=True),
    ),
}


# Every way to a hypergradient: forward mode with all its products, and reverse mode in one level
# of recorded gradients and, with little memory, in several levels of checkpoints.
WAYS = {
    "loop": {"products": "loop"},
    "batched": {"products": "batched"},
    "forward": {"products": "forward"},
    "forward batched": {"products": "forward-batched"},
    "reverse": {"mode": "reverse"},
    "reverse, forward products": {"mode": "reverse", "products": "forward"},
    "reverse, checkpoints": {"mode": "reverse", "memory": 12_000},
    "reverse, on disk": {"mode": "reverse", "checkpoints": "disk", "memory": 12_000},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_equals_reverse_mode_through_the_unrolled_run(update: SGD, way: dict) -> None:
    model, data, validation = mlp(), batches(STEPS), batch(20)
    loss, expected = oracle_gradient(
        copy.deepcopy(model), loss_fn, update, data, lambda of: of(validation)
    )
    result = hypergradient(
        model, loss_fn, update, data, validation, steps=STEPS, **{"mode": "forward", **way}
    )
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(result.gradient, expected) <= 1e-10


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_equals_reverse_mode_for_every_kind_of_model(make: type[nn.Module], way: dict) -> None:
    model, data, validation = make(), batches(STEPS), batch(20)
    update, unrolled = UPDATES["all"], copy.deepcopy(model)
    if "memory" in way and make is dropout:
        way = {**way, "memory": 130_000}  # for the states of the generators
    if make is batch_norm:
        unrolled.eval = unrolled.train  # the oracle's validation then takes batch statistics
    torch.manual_seed(1)  # the same masks of dropout
    loss, expected = oracle_gradient(unrolled, loss_fn, update, data, lambda of: of(validation))
    torch.manual_seed(1)
    result = hypergradient(
        model, loss_fn, update, data, validation, steps=STEPS, **{"mode": "forward", **way}
    )
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(result.gradient, expected) <= 1e-10


@pytest.mark.parametrize("name", ["all", "momentum leaves zero", "nesterov", "geometric"])
def test_equals_central_differences(name: str) -> None:
    update, initial, data, validation = UPDATES[name], mlp(), batches(STEPS), batch(20)
    learned = {k: h for k, h in update.hypers.items() if isinstance(h, Schedule)}

    def run(params: dict[str, float]):
        moved = {
            k: Schedule(h.name, [params[n] for n in h.names], h.form, h.log)
            for k, h in learned.items()
        }
        changed = SGD(**{**update.hypers, **moved}, nesterov=update.nesterov)
        model = copy.deepcopy(initial)
        return hypergradient(model, loss_fn, changed, data, validation, mode="forward", steps=STEPS)

    params = {name: value for h in learned.values() for name, value in h.params.items()}
    expected = finite_differences(lambda p: run(p).loss, params)
    assert relative_error(run(params).gradient, expected) <= 1e-8


def test_the_printed_momentum_formula_of_the_paper_is_not_what_this_computes() -> None:
    # Its C^β takes v_t where the derivative has v_{t−1}: after one step from v = 0, the weights
    # do not depend on β at all.
    update = SGD(0.5, momentum=Schedule("momentum", [0.5]))
    result = hypergradient(mlp(), loss_fn, update, batches(1), batch(20), mode="forward", steps=1)
    assert result.gradient == {"momentum": 0.0}


def test_float32_has_the_signs_of_float64() -> None:
    model, data, validation = mlp(), batches(60), batch(100)
    update = SGD(
        Schedule("lr", [0.3, 0.2, 0.1]),
        momentum=Schedule("momentum", [0.5]),
        weight_decay=Schedule("wd", [0.01]),
    )
    double = hypergradient(
        copy.deepcopy(model), loss_fn, update, data, validation, mode="forward", steps=60
    )
    single = hypergradient(
        model.float(),
        lambda model, batch: loss_fn(model, (batch[0].float(), batch[1])),
        update,
        data,
        validation,
        mode="forward",
        steps=60,
    )
    assert all(single.gradient[k] * v > 0 for k, v in double.gradient.items())
    assert relative_error(single.gradient, double.gradient) < 1e-3


def test_validation_batches_count_by_their_size() -> None:
    update, initial, data = UPDATES["all"], mlp(), batches(STEPS)
    images, labels = batch(21)
    pieces = [(images[i:j], labels[i:j]) for i, j in ((0, 4), (4, 5), (5, 21))]
    joint, split = (
        hypergradient(
            copy.deepcopy(initial), loss_fn, update, data, validation, mode="forward", steps=STEPS
        )
        for validation in ((images, labels), iter(pieces))
    )
    assert split.loss == pytest.approx(joint.loss, rel=1e-12)
    assert relative_error(split.gradient, joint.gradient) < 1e-12


def test_a_hypergradient_can_be_taken_at_any_step() -> None:
    model, data, validation = mlp(), batches(STEPS), batch(20)
    update = SGD(Schedule("lr", [0.3, 0.2]))
    run = ForwardMode(copy.deepcopy(model), loss_fn, update, steps=STEPS)
    assert run.hypergradient(validation).gradient == {"lr_0": 0.0, "lr_1": 0.0}
    for one in data[: STEPS // 2]:
        run.step(one)
    half = hypergradient(
        model,
        loss_fn,
        SGD(Schedule("lr", [0.3])),
        data,
        validation,
        mode="forward",
        steps=STEPS // 2,
    )
    middle = run.hypergradient(validation).gradient
    assert middle == {"lr_0": pytest.approx(half.gradient["lr"]), "lr_1": 0.0}


def test_learning_some_parameters_leaves_their_hypergradients_unchanged() -> None:
    update, initial, data, validation = UPDATES["all"], mlp(), batches(STEPS), batch(20)
    full = hypergradient(
        copy.deepcopy(initial), loss_fn, update, data, validation, mode="forward", steps=STEPS
    )
    some = hypergradient(
        initial,
        loss_fn,
        update,
        data,
        validation,
        mode="forward",
        steps=STEPS,
        learn=["lr_1", "wd", "momentum_0"],
    )
    assert list(some.gradient) == ["lr_1", "momentum_0", "wd"]
    assert some.gradient == {k: pytest.approx(full.gradient[k]) for k in some.gradient}
    assert some.products < full.products


def test_windows_that_have_not_begun_cost_nothing() -> None:
    update = SGD(Schedule("lr", [0.3, 0.2, 0.1]), momentum=Schedule("momentum", [0.5]))
    result = hypergradient(
        mlp(), loss_fn, update, batches(STEPS), batch(20), mode="forward", steps=STEPS
    )
    # A tangent that begins at a step is still zero there, and needs no product either.
    assert result.products == STEPS // 3 * (2 + 3 + 4) - 4


def test_averaging_divides_by_the_steps_of_a_window() -> None:
    update, initial, data, validation = UPDATES["all"], mlp(), batches(STEPS), batch(20)
    total, mean = (
        hypergradient(
            copy.deepcopy(initial),
            loss_fn,
            update,
            data,
            validation,
            mode="forward",
            steps=STEPS,
            average=average,
        ).gradient
        for average in (False, True)
    )
    steps = {"lr_0": 4, "lr_1": 4, "lr_2": 4, "momentum_0": 6, "momentum_1": 6}
    for name, value in total.items():
        assert mean[name] == pytest.approx(value / steps.get(name, STEPS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_on_cuda_as_on_the_cpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    update, data, validation = UPDATES["all"], batches(STEPS), batch(20)
    model = mlp().to(dtype)

    def moved(batch, device):
        return batch[0].to(device, dtype), batch[1].to(device)

    results = [
        hypergradient(
            copy.deepcopy(model).to(device),
            loss_fn,
            update,
            [moved(one, device) for one in data],
            moved(validation, device),
            mode="forward",
            steps=STEPS,
        )
        for device in ("cpu", "cuda")
    ]
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    assert relative_error(results[1].gradient, results[0].gradient) < tolerance
