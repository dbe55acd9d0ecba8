"""What a run does to the model, and the options that change a run."""

import copy
import io
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector as vector

from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import Partial, batch, batch_norm, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, ForwardMode, hypergradient

STEPS = 10


def train_with_torch(model: nn.Module, data: list, update: SGD) -> torch.Tensor:
    """The weights that torch's own optimizer reaches with these hyperparameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, nesterov=False)
    for step, one in enumerate(data):
        for group in optimizer.param_groups:
            for name, h in update.hypers.items():
                group[name] = h.at(step, len(data)) if isinstance(h, Schedule) else h
            group["nesterov"] = update.nesterov
        optimizer.zero_grad()
        loss_fn(model, one).backward()
        optimizer.step()
    return vector(model.parameters()).detach()


SGDS = {
    "plain": SGD(0.3),
    "negative lr": SGD(-0.1),
    "momentum": SGD(0.1, momentum=0.9, weight_decay=0.01),
    "dampening": SGD(0.1, momentum=0.9, dampening=0.3),
    "dampening without momentum": SGD(0.1, dampening=0.3),
    "nesterov": SGD(0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "schedules": SGD(
        Schedule("lr", [0.3, 0.1, 0.0]),
        momentum=Schedule("m", [0.5, 0.9], "linear"),
        weight_decay=Schedule("wd", [0.1, 0.0]),
        dampening=Schedule("d", [0.0, 0.5], "cosine"),
    ),
    "momentum leaves zero": SGD(0.1, momentum=Schedule("m", [0.0, 0.9]), dampening=0.2),
    "momentum visits zero": SGD(0.1, momentum=Schedule("m", [0.9, 0.0, 0.5])),
}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("update", SGDS.values(), ids=SGDS)
def test_without_learning_the_weights_are_those_of_torch(
    update: SGD, dtype: torch.dtype, tolerance: float
) -> None:
    model = mlp().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(STEPS)]
    expected = train_with_torch(copy.deepcopy(model), data, update)
    result = hypergradient(model, loss_fn, update, data, data[0], steps=STEPS, learn=())
    torch.testing.assert_close(vector(model.parameters()), expected, rtol=tolerance, atol=tolerance)
    assert result.gradient == {} and result.products == 0


def test_learn_false_only_trains_and_true_learns_all() -> None:
    update, data, initial = SGD(Schedule("lr", [0.2])), batches(STEPS), mlp()
    trained, learned, default = (
        hypergradient(
            copy.deepcopy(initial), loss_fn, update, data, data[0], steps=STEPS, **options
        )
        for options in ({"learn": False}, {"learn": True}, {})
    )
    assert trained.gradient == {} and trained.products == 0 < learned.products
    assert trained.loss == pytest.approx(learned.loss)
    assert learned.gradient == default.gradient


@pytest.mark.parametrize("update", [SGDS["schedules"], SGDS["momentum visits zero"]])
def test_learning_does_not_change_the_weights(update: SGD) -> None:
    # With momentum learned, v goes on at a momentum of 0; torch does so just above 0.
    model, data = mlp(), batches(STEPS)
    above = {
        k: Schedule(h.name, [v or 1e-30 for v in h.values], h.form)
        if isinstance(h, Schedule)
        else h
        for k, h in update.hypers.items()
    }
    expected = train_with_torch(copy.deepcopy(model), data, SGD(**above))
    hypergradient(model, loss_fn, update, data, data[0], mode="forward", steps=STEPS)
    torch.testing.assert_close(vector(model.parameters()), expected, rtol=1e-13, atol=1e-14)


def test_keep_buffer_chooses_the_rule_at_zero_momentum() -> None:
    data, initial = batches(STEPS), mlp()
    momentum = Schedule("m", [0.0, 0.9])

    def weights(keep: bool | None, learn: tuple[str, ...] | None) -> torch.Tensor:
        model = copy.deepcopy(initial)
        update = SGD(0.1, momentum=momentum, keep_buffer=keep)
        hypergradient(
            model, loss_fn, update, data, data[0], mode="forward", steps=STEPS, learn=learn
        )
        return vector(model.parameters()).detach()

    torch.testing.assert_close(weights(True, ()), weights(None, None))
    torch.testing.assert_close(weights(False, ()), weights(None, ()))
    assert not torch.allclose(weights(True, ()), weights(False, ()))


def test_weights_without_a_gradient_are_left_alone_as_torch_does() -> None:
    model, data = Partial(), batches(STEPS)
    used = [bool(x[0, 0] > 0) for x, _ in data]
    assert True in used and False in used
    update = SGD(
        Schedule("lr", [0.3, 0.2]),
        momentum=Schedule("m", [0.5]),
        weight_decay=Schedule("wd", [0.1]),
    )
    expected = train_with_torch(copy.deepcopy(model), data, update)
    result = hypergradient(model, loss_fn, update, data, data[0], mode="forward", steps=STEPS)
    torch.testing.assert_close(vector(model.parameters()), expected)
    shifted, epsilon = [], 1e-6
    for sign in (1, -1):
        torch.manual_seed(0)
        other = Partial()
        moved = SGD(
            Schedule("lr", [0.3, 0.2]),
            momentum=Schedule("m", [0.5]),
            weight_decay=Schedule("wd", [0.1 + sign * epsilon]),
        )
        shifted.append(
            hypergradient(other, loss_fn, moved, data, data[0], mode="forward", steps=STEPS).loss
        )
    assert result.gradient["wd"] == pytest.approx((shifted[0] - shifted[1]) / (2 * epsilon))


def test_running_statistics_advance_once_a_step_and_not_in_validation() -> None:
    model, data = batch_norm(), batches(STEPS)
    twin = copy.deepcopy(model)
    hypergradient(
        model, loss_fn, SGD(Schedule("lr", [0.1])), data, batches(3), mode="forward", steps=STEPS
    )
    train_with_torch(twin, data, SGD(0.1))
    assert int(model[1].num_batches_tracked) == STEPS
    for buffer, expected in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_validation_statistics_are_chosen(statistics: str) -> None:
    model, data, validation = batch_norm(), batches(STEPS), batch(20)
    update = SGD(Schedule("lr", [0.1]))
    result = hypergradient(
        model, loss_fn, update, data, validation, mode="forward", steps=STEPS, statistics=statistics
    )
    model.train(statistics == "batch")
    assert result.loss == pytest.approx(loss_fn(model, validation).item(), rel=1e-12)


def test_modes_come_back_after_validation_even_when_it_fails() -> None:
    model = batch_norm()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    run = ForwardMode(model, loss_fn, SGD(0.1), steps=1)
    buffers = copy.deepcopy(dict(model.named_buffers()))

    def broken(model: nn.Module, batch: object) -> torch.Tensor:
        loss_fn(model, batch)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run.hypergradient(batch(4), loss_fn=broken)
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(dict(model.named_buffers()), buffers)


def test_batch_norm_that_the_user_froze_stays_frozen() -> None:
    model, validation = batch_norm(), batch(20)
    model[1].eval()
    result = ForwardMode(model, loss_fn, SGD(0.1), steps=1).hypergradient(validation)
    assert result.loss == pytest.approx(loss_fn(model, validation).item())


@pytest.mark.parametrize("form", [tuple, list, iter, lambda p: {"x": p[0], "y": p[1]}])
def test_one_batch_may_have_any_usual_form(form) -> None:
    pair = batch(6)
    validation = form([pair]) if form is iter else form(pair)
    loss = lambda m, b: loss_fn(m, (b["x"], b["y"]) if isinstance(b, dict) else b)  # noqa: E731
    model = mlp()
    run = ForwardMode(model, loss, SGD(0.1), steps=1)
    assert run.hypergradient(validation).loss == pytest.approx(loss_fn(model, pair).item())


def test_batches_come_from_sequences_loaders_and_functions() -> None:
    images, labels = batch(12)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 4)
    pieces = [(images[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)]
    initial, results = mlp(), []
    for data in (loader, pieces, tuple(pieces), lambda step: pieces[step % 3]):
        model = copy.deepcopy(initial)
        update = SGD(Schedule("lr", [0.1]))
        results.append(
            hypergradient(model, loss_fn, update, data, pieces[0], mode="forward", steps=7).gradient
        )
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("truncation, products", [("leading", 7), ("alternate", 7)])
def test_truncation_saves_products_and_keeps_the_weights(truncation: str, products: int) -> None:
    update, data, initial = SGD(Schedule("lr", [0.2])), batches(STEPS), mlp()
    models = [copy.deepcopy(initial) for _ in range(2)]
    full, some = (
        hypergradient(
            m,
            loss_fn,
            update,
            data,
            data[0],
            mode="forward",
            steps=STEPS,
            truncate=t,
            truncation=truncation,
        )
        for m, t in zip(models, (0.0, 0.2), strict=True)
    )
    assert (full.products, some.products) == (STEPS - 1, products)
    assert some.gradient != full.gradient
    torch.testing.assert_close(*(vector(m.parameters()) for m in models))


def test_truncated_steps_freeze_only_the_tangents_of_their_schedule() -> None:
    # Of ten steps, lr (two windows) stands still at 0 and 5, momentum (one window) at 0 and 1;
    # no tangent needs a product at the step that it begins at.
    update = SGD(Schedule("lr", [0.2, 0.1]), momentum=Schedule("m", [0.5]))
    run = ForwardMode(mlp(), loss_fn, update, steps=10, truncate=0.2)
    taken = []
    for one in batches(10):
        run.step(one)
        taken.append(run.hypergradient(one).products)
    assert [b - a for a, b in pairwise([0, *taken])] == [0, 0, 1, 2, 2, 1, 2, 3, 3, 3]


def test_leading_truncation_is_the_run_that_starts_later() -> None:
    # Tangents that stand still at the first steps are those of a run that begins after them.
    data, validation, model = batches(STEPS), batch(20), mlp()
    update = SGD(Schedule("lr", [0.2]))
    late = copy.deepcopy(model)
    hypergradient(late, loss_fn, SGD(0.2), data, validation, mode="forward", steps=3)
    _, expected = oracle_gradient(late, loss_fn, update, data[3:], lambda of: of(validation))
    result = hypergradient(
        model,
        loss_fn,
        update,
        data,
        validation,
        mode="forward",
        steps=STEPS,
        truncate=0.3,
        average=True,
    )
    assert result.gradient["lr"] == pytest.approx(expected["lr"] / 7, rel=1e-10)


def test_clipped_gradients_are_differentiated_as_they_train() -> None:
    bound, data, validation, model = 0.05, batches(STEPS), batch(20), mlp()
    update = SGD(Schedule("lr", [0.5]), momentum=Schedule("m", [0.6]))

    def loss(lr: float, m: float) -> float:
        moved = SGD(Schedule("lr", [lr]), momentum=Schedule("m", [m]))
        return run(moved).loss

    def run(update: SGD):
        twin = copy.deepcopy(model)
        return hypergradient(
            twin,
            loss_fn,
            update,
            data,
            validation,
            mode="forward",
            steps=STEPS,
            clip_gradients=bound,
        )

    e = 1e-6
    expected = {
        "lr": (loss(0.5 + e, 0.6) - loss(0.5 - e, 0.6)) / (2 * e),
        "m": (loss(0.5, 0.6 + e) - loss(0.5, 0.6 - e)) / (2 * e),
    }
    clipped = run(update)
    assert relative_error(clipped.gradient, expected) < 1e-7
    assert (
        clipped.loss
        != hypergradient(model, loss_fn, update, data, validation, mode="forward", steps=STEPS).loss
    )


def test_clipped_products_bound_the_tangents_and_are_counted() -> None:
    data, validation, model = batches(STEPS), batch(20), mlp()
    update = SGD(Schedule("lr", [0.5]))
    loose, tight = (
        hypergradient(
            copy.deepcopy(model),
            loss_fn,
            update,
            data,
            validation,
            mode="forward",
            steps=STEPS,
            clip_products=c,
        )
        for c in (1e6, 1e-3)
    )
    assert loose.clipped == 0.0 and 0.0 < tight.clipped < 1.0
    assert loose.loss == tight.loss and loose.gradient != tight.gradient


def test_a_diverged_run_reports_what_is_not_finite() -> None:
    result = hypergradient(
        mlp(),
        lambda model, x: model(x[0]).pow(4).sum(),
        SGD(Schedule("lr", [1e3])),
        batches(STEPS),
        batch(5),
        mode="forward",
        steps=STEPS,
    )
    assert not torch.isfinite(torch.tensor(result.gradient["lr"]))


def test_an_interrupted_run_leaves_the_weights_of_its_last_step() -> None:
    model, data = mlp(), batches(STEPS)
    expected = train_with_torch(copy.deepcopy(model), data[:4], SGD(0.1))

    def interrupt(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hypergradient(
            model,
            loss_fn,
            SGD(Schedule("lr", [0.1])),
            data,
            data[0],
            mode="forward",
            steps=10,
            on_step=interrupt,
        )
    torch.testing.assert_close(vector(model.parameters()).detach(), expected)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_on_request_and_to_a_terminal_only(
    progress: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    data = batches(2)
    hypergradient(
        mlp(), loss_fn, SGD(0.1), data, data[0], mode="forward", steps=2, progress=progress
    )
    assert ("training" in stream.getvalue()) is (progress and terminal)


def test_buffers_that_a_model_replaces_come_back_too() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count = self.count + 1
            return self.inner(x)

    model = Counting()
    hypergradient(model, loss_fn, SGD(0.1), batches(4), batches(3), mode="forward", steps=4)
    assert int(model.count) == 4


def test_nothing_is_left_of_the_graph_or_printed() -> None:
    model, data = mlp(), batches(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hypergradient(
            model, loss_fn, SGD(Schedule("lr", [0.1])), data, data[0], mode="forward", steps=3
        )
    assert all(p.is_leaf and p.requires_grad and p.grad is None for p in model.parameters())


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"steps": 2.0}, "steps must be a positive integer, got 2.0"),
        ({"mode": "backward"}, "mode must be one of .*, got 'backward'"),
        ({"learn": ["lr_9"]}, "learn: 'lr_9' is not a parameter"),
        ({"learn": "lr"}, "learn must be a collection of names"),
        ({"truncate": 1.0}, "truncate must lie in .* got 1.0"),
        ({"truncation": "middle"}, "truncation must be one of .*'middle'"),
        ({"clip_products": 0.0}, "clip_products must be positive or None, got 0.0"),
        ({"clip_gradients": -1.0}, "clip_gradients must be positive or None, got -1.0"),
        ({"products": "magic"}, "products must be one of .*'magic'"),
        ({"statistics": "moving"}, "statistics must be one of .*'moving'"),
        ({"batches": iter([])}, "batches ended after 0, before the last step"),
        ({"batches": (torch.zeros(2, 5), torch.zeros(2))}, "batches: got a single batch"),
        ({"update": torch.optim.SGD([torch.zeros(1)])}, "update must be one of this package's"),
        ({"validation": []}, "validation: got no examples"),
        ({"validation": [["no", "tensor"]]}, "validation: the size of a batch is unknown"),
        ({"loss_fn": lambda m, b: m(b[0])}, "loss_fn must return a scalar, got shape .8, 3."),
        ({"loss_fn": lambda m, b: torch.zeros(())}, "does not depend on the model's weights"),
        ({"model": frozen()}, "model: none of its parameters requires a gradient"),
        (
            {"update": SGD(Schedule("x", [0.1]), momentum=Schedule("x", [0.2]))},
            "two schedules have the name 'x'",
        ),
    ],
)
def test_bad_input_names_the_argument(changes: dict, message: str) -> None:
    data = batches(3)
    arguments = {
        "model": mlp(),
        "loss_fn": loss_fn,
        "update": SGD(Schedule("lr", [0.1])),
        "batches": data,
        "validation": data[0],
        "steps": 3,
    }
    with pytest.raises(ValueError, match=message):
        hypergradient(**(arguments | changes))


def test_mixed_precision_and_spent_runs_are_refused() -> None:
    mixed = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3).float())
    with pytest.raises(ValueError, match="model: its parameters differ in dtype or device"):
        ForwardMode(mixed, loss_fn, SGD(0.1), steps=1)
    run = ForwardMode(mlp(), loss_fn, SGD(0.1), steps=1)
    run.step(batch(4))
    with pytest.raises(ValueError, match="all 1 steps of this run are done"):
        run.step(batch(4))
    with pytest.raises(ValueError, match=r"lr must be a number or a Schedule, got '0.1'"):
        SGD("0.1")
    with pytest.raises(ValueError, match=r"nesterov needs dampening=0.0, got 0.1"):
        SGD(0.1, nesterov=True, dampening=0.1)
