"""Reverse mode: what is stored, what is computed again, and which runs are refused."""

import copy
import gc
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector as vector
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from autodiff.oracle import relative_error
from autodiff.problems import batch, batch_norm, batches, dropout, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, Adam, Averaged, RecomputeError, hypergradient

STEPS = 24
NUMBER = 8  # of a float64, in bytes
WEIGHTS = sum(p.numel() for p in mlp().parameters())


def update() -> SGD:
    return SGD(
        Schedule("lr", [0.3, 0.2, 0.1]),
        momentum=Schedule("momentum", [0.5]),
        weight_decay=Schedule("wd", [0.01]),
    )


def run(model: nn.Module, data: object, mode: str, **options):
    validation = options.pop("validation", None) or batch(20)
    steps = options.pop("steps", STEPS)
    return hypergradient(
        model, loss_fn, update(), data, validation, steps=steps, mode=mode, **options
    )


def test_every_single_step_has_a_hypergradient() -> None:
    initial, data, validation = mlp(), batches(STEPS), batch(20)
    fine = SGD(
        Schedule("lr", [0.3] * STEPS),
        momentum=Schedule("momentum", [0.5] * STEPS),
        weight_decay=0.1,
    )
    coarse = SGD(Schedule("lr", [0.3]), momentum=Schedule("momentum", [0.5]), weight_decay=0.1)
    expected = hypergradient(
        copy.deepcopy(initial), loss_fn, fine, data, validation, mode="forward", steps=STEPS
    ).gradient
    result = hypergradient(initial, loss_fn, coarse, data, validation, steps=STEPS, mode="reverse")
    for name in ("lr", "momentum"):
        derivatives = [expected[f"{name}_{i}"] for i in range(STEPS)]
        np.testing.assert_allclose(result.per_step[name], derivatives, rtol=1e-9, atol=1e-14)
        assert result.gradient[name] == pytest.approx(sum(derivatives), rel=1e-10)


@pytest.mark.parametrize("vectors", [11, 12, 14, 20, 27, 29, 1000])
@pytest.mark.parametrize("checkpoints", ["device", "host", "disk"])
def test_the_memory_is_not_exceeded_and_changes_nothing(vectors: int, checkpoints: str) -> None:
    memory = 2 * vectors * WEIGHTS * NUMBER
    torch.manual_seed(1)
    initial, data, validation = mlp(), batches(STEPS), batch(20)
    full = run(copy.deepcopy(initial), data, "reverse", validation=validation)
    some = run(
        initial, data, "reverse", validation=validation, memory=memory, checkpoints=checkpoints
    )
    assert some.kept_bytes <= memory
    assert some.gradient == full.gradient  # to the last bit
    assert (some.recomputed > 0) == (vectors < 28)


@pytest.mark.parametrize("checkpoints", [2, 3, 5])
def test_few_checkpoints_compute_the_fewest_steps_again(checkpoints: int) -> None:
    """Griewank and Walther's formula; a checkpoint is two vectors, the first and a gradient one."""
    memory = (2 * checkpoints - 1 + 1) * WEIGHTS * NUMBER
    torch.manual_seed(1)
    initial, data, validation = mlp(), batches(STEPS), batch(20)
    full = run(copy.deepcopy(initial), data, "reverse", validation=validation)
    some = run(initial, data, "reverse", validation=validation, memory=memory)
    r = next(r for r in range(STEPS) if math.comb(checkpoints + r, r) >= STEPS)
    expected = r * STEPS - math.comb(checkpoints + r, r - 1)
    assert (some.recomputed, some.kept_bytes) == (expected, memory)
    assert some.gradient == full.gradient  # to the last bit


def test_too_little_memory_says_how_much_would_do() -> None:
    with pytest.raises(ValueError, match=r"memory: 100 bytes are too few .* would do"):
        run(mlp(), batches(STEPS), "reverse", memory=100)


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run(mlp(), batches(STEPS), "reverse", checkpoints="disk", memory=20_000)
    gc.collect()
    assert result.recomputed and not list(tmp_path.iterdir())


class Augmented(Dataset):
    """Draws from torch's, numpy's and Python's generators for every item."""

    def __init__(self) -> None:
        self.images, self.labels = batch(40)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(5) + float(np.random.randn()) + random.random()
        return self.images[index] + 0.1 * noise, self.labels[index]


def drawn(step: int) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 5) + float(np.random.randn()), torch.randint(3, (8,))


def loaders() -> dict[str, Callable[[], object]]:
    return {
        "shuffled": lambda: DataLoader(Augmented(), 8, shuffle=True),
        "own generator": lambda: DataLoader(
            Augmented(), 8, shuffle=True, generator=torch.Generator().manual_seed(3)
        ),
        "sampler": lambda: DataLoader(
            (data := Augmented()),
            8,
            sampler=RandomSampler(data, generator=torch.Generator().manual_seed(4)),
        ),
        "with replacement": lambda: DataLoader(
            (data := Augmented()), 8, sampler=RandomSampler(data, replacement=True)
        ),
        "plain": lambda: DataLoader(TensorDataset(*batch(40)), 8),
        "function": lambda: drawn,
        "sequence": lambda: batches(5),
    }


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("memory", [None, 300_000])
@pytest.mark.parametrize("kind", loaders())
def test_random_numbers_come_out_the_same(kind: str, memory: int | None, accumulate: int) -> None:
    initial, validation, found = dropout(), batch(20), []
    for mode in ("forward", "reverse"):
        torch.manual_seed(2)
        np.random.seed(2)
        random.seed(2)
        data = loaders()[kind]()
        options = {} if mode == "forward" else {"memory": memory}
        model = copy.deepcopy(initial)
        result = run(model, data, mode, validation=validation, accumulate=accumulate, **options)
        after = (torch.rand(()).item(), np.random.rand(), random.random())
        found.append((result, vector(model.parameters()).detach(), after))
    (forward, weights, after), (reverse, same_weights, same_after) = found
    assert relative_error(reverse.gradient, forward.gradient) <= 1e-10
    assert torch.equal(weights, same_weights) and after == same_after
    assert memory is None or reverse.kept_bytes <= memory


def test_the_model_is_left_as_training_leaves_it() -> None:
    model, data = batch_norm(), batches(STEPS)
    twin = copy.deepcopy(model)
    run(twin, data, "forward", learn=())
    run(model, data, "reverse", memory=30_000)
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.training and all(p.grad is None for p in model.parameters())


class Counting(nn.Module):
    """Its dropout depends on how often it was called, if that was often: past the first checks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = mlp(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        generator = torch.Generator().manual_seed(max(self.calls - 40, 0))
        mask = torch.rand(x.shape, generator=generator) < 0.5
        return self.inner(x * mask)


@pytest.mark.parametrize("memory", [None, 16_000])
def test_a_step_that_comes_out_differently_is_reported(memory: int | None) -> None:
    model = Counting()
    with pytest.raises(RecomputeError, match=r"step \d+ came out differently .* mode='forward'"):
        run(model, batches(STEPS), "reverse", memory=memory)
    own = torch.Generator().manual_seed(0)

    def batch_of_its_own(step: int) -> tuple[Tensor, Tensor]:
        return torch.randn(8, 5, generator=own), torch.zeros(8, dtype=torch.long)

    with pytest.raises(ValueError, match="another batch when it was called again"):
        run(mlp(), batch_of_its_own, "reverse", memory=memory)

    def later(step: int) -> tuple[Tensor, Tensor]:  # past the check of the first batch
        return batch_of_its_own(step) if step else (torch.ones(8, 5), torch.zeros(8).long())

    with pytest.raises(RecomputeError, match="counter or a generator"):
        run(mlp(), later, "reverse", memory=memory)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"truncate": 0.1}, "mode='reverse' has no tangents to stand still: truncate is for"),
        ({"data": iter(batches(STEPS))}, "mode='reverse' takes batches again"),
        ({"checkpoints": "tape"}, "checkpoints must be one of .* got 'tape'"),
        ({"accumulate": 0}, "accumulate must be a positive integer"),
    ],
)
def test_runs_that_need_forward_mode_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(mlp(), options.pop("data", None) or batches(STEPS), "reverse", **options)


def test_without_anything_to_learn_reverse_mode_just_trains() -> None:
    model, data = mlp(), batches(STEPS)
    twin = copy.deepcopy(model)
    assert run(model, data, "reverse", learn=()).gradient == {}
    run(twin, data, "forward", learn=())
    assert torch.equal(vector(model.parameters()), vector(twin.parameters()))


def test_a_run_that_blew_up_has_no_hypergradient() -> None:
    result = hypergradient(
        mlp().float(),
        lambda model, one: (model(one[0].float()) ** 2).sum() ** 2,
        SGD(Schedule("lr", [10.0])),
        batches(STEPS),
        batch(5),
        steps=STEPS,
        mode="reverse",
    )
    assert not np.isfinite(result.loss) and np.isnan(result.gradient["lr"])
    assert np.isnan(result.per_step["lr"]).all() and result.recomputed == 0


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_averages_are_validated_and_left_in_the_model(mode: str) -> None:
    model, data, validation = mlp(), batches(STEPS), batch(20)
    averaged = Averaged(Adam(Schedule("lr", [0.1])), decay=Schedule("decay", [0.8]))
    initial = copy.deepcopy(model)
    result = hypergradient(model, loss_fn, averaged, data, validation, steps=STEPS, mode=mode)
    assert result.loss == pytest.approx(loss_fn(model, validation).item())

    def loss(decay: float) -> float:
        moved = Averaged(Adam(0.1), decay)
        twin = copy.deepcopy(initial)
        return hypergradient(
            twin, loss_fn, moved, data, validation, mode="forward", steps=STEPS
        ).loss

    derivative = (loss(0.8 + 1e-6) - loss(0.8 - 1e-6)) / 2e-6
    assert result.gradient["decay"] == pytest.approx(derivative, rel=1e-7)


def test_averaging_divides_alike_in_both_modes() -> None:
    initial, data, validation = mlp(), batches(STEPS), batch(20)
    forward, reverse = (
        run(copy.deepcopy(initial), data, mode, validation=validation, average=True).gradient
        for mode in ("forward", "reverse")
    )
    assert relative_error(reverse, forward) <= 1e-12


def test_auto_is_reverse_mode_unless_something_asks_for_forward_mode() -> None:
    initial, validation = dropout(), batch(20)
    found = {}
    for mode in ("auto", "forward", "reverse"):
        torch.manual_seed(5)
        model = copy.deepcopy(initial)
        data = DataLoader(TensorDataset(*batch(40)), 8, shuffle=True)
        found[mode] = run(model, data, mode, validation=validation)
    assert found["auto"].mode == "reverse"
    assert found["auto"].gradient == found["reverse"].gradient
    assert relative_error(found["auto"].gradient, found["forward"].gradient) <= 1e-10

    def chosen(data: object, **options: object) -> str:
        return run(copy.deepcopy(initial), data, "auto", **options).mode

    data = batches(STEPS)
    assert chosen(iter(data)) == "forward"
    assert chosen(data, truncate=0.2) == chosen(data, clip_products=1.0) == "forward"
    assert chosen(data, share=["lr_0", "wd"]) == "forward"
    assert chosen(data, learn=["lr_1"]) == "forward"  # of one parameter
    assert chosen(data, learn=["lr_1", "wd"]) == "reverse"


def test_auto_does_not_exceed_the_memory_but_says_how_much_would_do() -> None:
    with pytest.raises(ValueError, match=r"memory: 100 bytes are too few .* would do"):
        run(mlp(), batches(STEPS), "auto", memory=100)


def test_the_old_name_of_recomputed_warns() -> None:
    result = run(mlp(), batches(STEPS), "reverse", memory=20_000)
    with pytest.warns(FutureWarning, match="now called recomputed"):
        assert result.replayed == result.recomputed > 0
