"""Runs computed as one against the same runs alone."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import (
    SGD,
    AdamW,
    Averaged,
    Hypergradient,
    Projected,
    RecomputeError,
    hypergradient,
)
from optuna_hypergrad.autodiff.batched import calls
from optuna_hypergrad.autodiff.batched.run_together import RunTogether

RUNS, STEPS, SIZE = 3, 24, 4
Job = Callable[[int], Any]


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reasons for which runs of a batch were computed one by one."""
    reasons: list[str] = []
    monkeypatch.setattr(calls, "_log", reasons.append)
    return reasons


def together(job: Job, n_runs: int = RUNS) -> list[Any]:
    return RunTogether()(job, range(n_runs))


class Sequential(nn.Module):
    """Tokens through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(7, 5), nn.LSTM(5, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(x))[0].mean(1))


class Attention(nn.Module):
    """Tokens through a transformer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embedding(x)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutions() -> nn.Module:
    """With batch norm, whose statistics a step changes, and dropout, which draws."""
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3)]
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, *head)


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {mlp: (6,), convolutions: (1, 9, 9)}


def examples(make: Callable[[], nn.Module], n: int = 4 * SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    shape = SHAPES.get(make)
    x = (
        torch.randint(0, 7, (n, 5), generator=generator)
        if shape is None
        else torch.randn(n, *shape, generator=generator).double()
    )
    return x, torch.randint(0, 3, (n,), generator=generator)


def loss_fn(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def sgd(run: int) -> SGD:
    lr = Schedule("lr", [0.1 + 0.02 * run, 0.05])
    return SGD(lr, momentum=Schedule("momentum", [0.5]), weight_decay=0.01 * run)


def adamw(run: int) -> AdamW:
    return AdamW(Schedule("lr", [0.01, 0.02 + 0.01 * run]), weight_decay=0.1)


def job(
    make: Callable[[], nn.Module] = mlp,
    update: Callable[[int], Any] = sgd,
    batches: str = "list",
    **options: Any,
) -> Job:
    """An objective whose random numbers its seed alone determines."""

    def objective(run: int) -> tuple[Hypergradient, dict[str, Tensor]]:
        torch.manual_seed(run)
        np.random.seed(run)
        model, (x, y) = make().double(), examples(make)
        data: Any = [(x[i : i + SIZE], y[i : i + SIZE]) for i in range(0, len(x), SIZE)]
        if batches == "torch":
            data = lambda step: (lambda i: (x[i], y[i]))(torch.randint(0, len(x), (SIZE,)))  # noqa: E731
        if batches == "numpy":
            data = lambda step: (lambda i: (x[i], y[i]))(np.random.randint(0, len(x), SIZE))  # noqa: E731
        if batches == "loader":
            data = DataLoader(TensorDataset(x, y), SIZE, shuffle=True)
        given = {"loss_fn": loss_fn, "steps": STEPS, "mode": "reverse", **options}
        result = hypergradient(model, update=update(run), batches=data, validation=(x, y), **given)
        return result, model.state_dict()

    return objective


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for (result, state), (alone, alone_state) in zip(found, expected, strict=True):
        assert result.gradient == pytest.approx(alone.gradient, rel=1e-6, nan_ok=True)
        assert result.loss == pytest.approx(alone.loss, rel=1e-9, nan_ok=True)
        assert result.train_losses == pytest.approx(alone.train_losses, rel=1e-9, nan_ok=True)
        for name, values in state.items():
            torch.testing.assert_close(values, alone_state[name], equal_nan=True)
        for part, own in zip(result.state, alone.state, strict=True):
            torch.testing.assert_close(part, own, equal_nan=True)
        for name, values in result.tensors.items():
            torch.testing.assert_close(values, alone.tensors[name])


@pytest.mark.parametrize(
    ("make", "update", "batches"),
    [
        *((mlp, adamw, "list"), (mlp, sgd, "numpy"), (mlp, adamw, "loader")),
        *((convolutions, sgd, "torch"), (Attention, sgd, "loader"), (Sequential, sgd, "list")),
    ],
)
def test_runs_are_those_of_separate_trials(
    make: Callable[[], nn.Module],
    update: Callable[[int], Any],
    batches: str,
    one_by_one: list[str],
) -> None:
    run = job(make, update, batches)
    assert_same(together(run), [run(i) for i in range(RUNS)])
    assert not one_by_one


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 20_000},  # steps are computed again
        {"memory": 6_000},
        {"accumulate": 2, "batches": "loader"},
        {"average": True, "estimate": "exact", "clip_gradients": 0.1},
        {"clip_products": 0.01},
        {"update": lambda run: Averaged(sgd(run), decay=0.8)},
        {"make": convolutions, "statistics": "running"},
        {"checkpoints": "disk"},
        {"initial": lambda weights, hypers: {"0.bias": weights["0.bias"] * 2}},
        {"learn": ()},
        {"learn": (), "mode": "auto", "make": convolutions, "batches": "torch"},
    ],
    ids=lambda options: ", ".join(options),
)
def test_options(options: dict[str, Any], one_by_one: list[str]) -> None:
    run = job(**options)
    assert_same(together(run), [run(i) for i in range(RUNS)])
    assert not one_by_one


def test_hyperparameters_of_the_loss(one_by_one: list[str]) -> None:
    def loss(model: nn.Module, batch: Sequence[Tensor], hypers: Any) -> Tensor:
        z = model(batch[0])
        factor = hypers["weights"][batch[1]].exp()
        smooth = -F.log_softmax(z, -1).mean()
        of_class = (F.cross_entropy(z, batch[1], reduction="none") * factor).mean()
        return (1 - hypers["s"]) * of_class + hypers["s"] * smooth * hypers["constant"]

    def objective(run: int) -> Any:
        hypers = {
            "s": Schedule("s", [0.1, 0.2 + 0.1 * run]),
            "weights": torch.tensor([0.1, 0.2, 0.3]) * run,
            "constant": 1.5,
        }
        return job(loss_fn=loss, hypers=hypers)(run)

    assert_same(together(objective), [objective(i) for i in range(RUNS)])
    assert not one_by_one


def test_a_continued_run() -> None:
    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = mlp().double(), examples(mlp)
        state: Any = None
        for _ in range(2):
            options: Any = {"steps": STEPS, "state": state, "mode": "reverse"}
            result = hypergradient(model, loss_fn, adamw(run), [(x, y)], (x, y), **options)
            state = result.state
        return result, model.state_dict()

    assert_same(together(objective), [objective(i) for i in range(RUNS)])


def test_the_same_tensor_for_all_runs_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna_hypergrad.autodiff.batched.runs import StackedRuns

    x, y = examples(mlp)
    shared: list[int] = []
    inputs = StackedRuns.inputs

    def watched(self: StackedRuns, *arguments: Any) -> Any:
        found = inputs(self, *arguments)
        shared.append(found.is_stacked.count(False))
        return found

    monkeypatch.setattr(StackedRuns, "inputs", watched)

    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model = mlp().double()
        result = hypergradient(
            model, loss_fn, sgd(run), [(x, y)], (x, y), steps=STEPS, mode="reverse"
        )
        return result, model.state_dict()

    found = together(objective)
    assert set(shared) == {2}
    assert_same(found, [objective(i) for i in range(RUNS)])


def test_runs_with_constants_of_their_own(one_by_one: list[str]) -> None:
    """A Python number of the trial is in no input of the operations."""

    def objective(run: int) -> Any:
        smoothing = 0.1 + 0.1 * run
        return job(loss_fn=lambda m, b: F.cross_entropy(m(b[0]), b[1], label_smoothing=smoothing))(
            run
        )

    assert_same(together(objective), [objective(i) for i in range(RUNS)])
    assert any("different numbers" in reason for reason in one_by_one)


def test_frozen_weights_of_their_own(one_by_one: list[str]) -> None:
    def frozen() -> nn.Module:
        model = mlp()
        model[0].weight.requires_grad_(False)
        return model

    SHAPES[frozen] = SHAPES[mlp]
    run = job(frozen)
    assert_same(together(run), [run(i) for i in range(RUNS)])
    assert not one_by_one


def test_a_counter_in_the_loss() -> None:
    """That a Python number changes from step to step is seen at the second step."""

    def objective(run: int) -> Any:
        count = 0

        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            nonlocal count
            count += 1
            return loss_fn(model, batch) * (1 + count)

        torch.manual_seed(run)
        model, (x, y) = mlp().double(), examples(mlp)
        result = hypergradient(model, loss, sgd(run), [(x, y)], (x, y), steps=8, learn=())
        return result, model.state_dict()

    # The losses of a run alone are those of the counter: 2, 3, 4, … times the plain loss.
    found, alone = together(objective)[0][0], objective(0)[0]
    assert found.train_losses[:2] == pytest.approx(alone.train_losses[:2])


def test_a_change_at_a_later_step_is_an_error() -> None:
    def objective(run: int) -> Any:
        scale = [1.0]

        def on_step(step: int, loss: float) -> None:
            scale[0] = 1.0 if step < 12 else 2.0

        return job(loss_fn=lambda m, b: loss_fn(m, b) * scale[0], on_step=on_step, learn=())(run)

    found = together(objective)
    assert all(isinstance(one, RecomputeError) for one in found)
    assert "study.optimize" in str(found[0])


@pytest.mark.parametrize("learn", [(), None])
@pytest.mark.parametrize("step_of_change", [2, 12])
def test_a_change_that_only_the_gradient_shows_is_an_error(learn: Any, step_of_change: int) -> None:
    def objective(run: int) -> Any:
        scale = [0.0]

        def on_step(step: int, loss: float) -> None:
            scale[0] = 0.0 if step < step_of_change else 1.0

        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            value = loss_fn(model, batch)
            return value + scale[0] * (value - value.detach())

        return job(loss_fn=loss, on_step=on_step, learn=learn)(run)

    found = together(objective)
    assert all(isinstance(one, RecomputeError) for one in found)
    assert "the gradient of run" in str(found[0])


def test_one_that_fails_does_not_touch_the_others() -> None:
    def objective(run: int) -> Any:
        calls = 0

        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            nonlocal calls
            calls += 1
            if run == 1 and calls == 3:
                raise FloatingPointError("of run 1")
            return loss_fn(model, batch)

        return job(loss_fn=loss)(run)

    found = together(objective)
    assert isinstance(found[1], FloatingPointError)
    assert_same(found[::2], [job()(i) for i in (0, 2)])


def test_one_that_is_stopped_or_diverges_does_not_touch_the_others() -> None:
    def objective(run: int) -> Any:
        def on_step(step: int, loss: float) -> None:
            if run == 0 and step == 7:
                raise StopAsyncIteration

        update = SGD(Schedule("lr", [1.7e308 if run == 1 else 0.1, 0.2]))
        return job(update=lambda run: update, on_step=on_step)(run)

    found = together(objective, 4)
    alone = [objective(i) for i in (1, 2, 3)]
    assert isinstance(found[0], StopAsyncIteration)
    assert np.isnan(found[1][0].loss)
    assert_same(found[1:], alone)


def test_all_fail() -> None:
    def objective(run: int) -> Any:
        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            if model.training and len(batch[0]) == SIZE:
                raise FloatingPointError(f"of run {run}")
            return loss_fn(model, batch)

        return job(loss_fn=loss, learn=())(run)

    assert [str(one) for one in together(objective)] == [f"of run {i}" for i in range(RUNS)]


def test_models_are_current_when_on_step_is_called() -> None:
    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = mlp().double(), examples(mlp)
        seen: list[float] = []

        def on_step(step: int, loss: float) -> None:
            torch.rand(3)  # changes nothing
            with torch.no_grad():
                seen.append(float(loss_fn(model, (x, y))))

        hypergradient(
            model, loss_fn, sgd(run), [(x, y)], (x, y), steps=6, learn=(), on_step=on_step
        )
        return seen

    for found, alone in zip(together(objective), map(objective, range(RUNS)), strict=True):
        assert found == pytest.approx(alone)


def test_on_step_must_not_change_the_model() -> None:
    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = mlp().double(), examples(mlp)

        def on_step(step: int, loss: float) -> None:
            with torch.no_grad():
                model[0].weight.zero_()

        return hypergradient(model, loss_fn, sgd(run), [(x, y)], (x, y), steps=4, on_step=on_step)

    assert all("on_step: it changed" in str(one) for one in together(objective))


class Counting(nn.Module):
    """Replaces a buffer at every call; another one is expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("ones", torch.ones(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1.0
        return self.layer(x) * self.ones * (1 + self.calls)


def test_buffers_that_a_model_replaces(one_by_one: list[str]) -> None:
    SHAPES[Counting] = SHAPES[mlp]
    run = job(Counting, lr_only, constant_buffers=["calls"])
    assert_same(together(run), [run(i) for i in range(RUNS)])
    assert one_by_one


def lr_only(run: int) -> SGD:
    return SGD(Schedule("lr", [0.01, 0.02 + 0.01 * run]))


def test_an_update_with_constants_of_its_own(one_by_one: list[str]) -> None:
    """They count only where a bound is reached, which is later than at the first steps."""

    def objective(run: int) -> Any:
        torch.manual_seed(0)
        model, (x, y) = mlp().double(), examples(mlp)
        bound = 0.45 + 0.05 * run

        def project(named: Any) -> Any:
            return {name: w.clamp(-bound, bound) for name, w in named.items()}

        update = Projected(lr_only(0), model, project)
        result = hypergradient(model, loss_fn, update, [(x, y)], (x, y), steps=60, mode="reverse")
        return result, model.state_dict()

    assert_same(together(objective), [objective(i) for i in range(RUNS)])
    assert any("different numbers" in reason for reason in one_by_one)


def test_the_next_batch_may_have_another_model_of_the_same_shape() -> None:
    def other() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    SHAPES[other] = SHAPES[mlp]
    run_together = RunTogether()
    for make in (mlp, mlp, other):
        run = job(make)
        assert_same(run_together(run, range(RUNS)), [run(i) for i in range(RUNS)])


@pytest.mark.parametrize("draw", [random.random, np.random.random_sample], ids=["random", "numpy"])
def test_rare_draws_outside_of_torch(draw: Callable[[], float], one_by_one: list[str]) -> None:
    def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return loss_fn(model, batch) * (2.0 if draw() < 0.1 else 1.0)

    def objective(run: int) -> Any:
        random.seed(run)
        return job(loss_fn=loss)(run)

    assert_same(together(objective), [objective(i) for i in range(RUNS)])
    assert one_by_one


def test_random_integers_in_the_loss(one_by_one: list[str]) -> None:
    def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        times = torch.randint(1, 4, (len(x), 1))
        return F.cross_entropy(model(x * times), y) + torch.randn(2).mean() * model[0].bias.sum()

    run = job(loss_fn=loss)
    assert_same(together(run), [run(i) for i in range(RUNS)])
    assert not one_by_one


def test_a_sequence_that_draws() -> None:
    class Noisy(Sequence[Any]):
        def __init__(self, batches: Any) -> None:
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, i: Any) -> Any:
            x, y = self.batches[i]
            return x + 0.1 * torch.randn_like(x), y

    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = mlp().double(), examples(mlp)
        result = hypergradient(
            model, loss_fn, sgd(run), Noisy([(x, y)]), (x, y), steps=STEPS, mode="reverse"
        )
        return result, model.state_dict()

    assert_same(together(objective), [objective(i) for i in range(RUNS)])


def test_on_step_must_not_change_modes() -> None:
    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = convolutions().double(), examples(convolutions)
        options: Any = {"steps": 4, "on_step": lambda step, loss: model.eval()}
        return hypergradient(model, loss_fn, sgd(run), [(x, y)], (x, y), **options)

    assert all("mode of a module" in str(one) for one in together(objective))


def test_a_loss_must_not_change_the_weights() -> None:
    def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            model[0].weight.clamp_(-0.01, 0.01)
        return loss_fn(model, batch)

    assert all("it changed the weights" in str(one) for one in together(job(loss_fn=loss)))


def test_runs_of_different_shapes_and_modes(one_by_one: list[str]) -> None:
    """Groups of equal runs are computed together, the others alone."""

    def objective(run: int) -> Any:
        if run == 2:
            return job(convolutions)(run)
        return job(mode="forward" if run == 4 else "reverse", steps=STEPS + run // 3)(run)

    assert_same(together(objective, 5), [objective(i) for i in range(5)])


def test_autocast_of_the_objective() -> None:
    def objective(run: int) -> Any:
        torch.manual_seed(run)
        model, (x, y) = mlp().float(), examples(mlp)
        with torch.autocast("cpu", torch.bfloat16):
            result = hypergradient(
                model, loss_fn, sgd(run), [(x.float(), y)], (x.float(), y), steps=8, learn=()
            )
        return result.train_losses

    found, alone = together(objective), [objective(i) for i in range(RUNS)]
    np.testing.assert_allclose(found, alone, rtol=2e-2)
