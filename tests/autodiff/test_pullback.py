"""Steps back by a trace: the same to the bit, or by autograd where a trace would be wrong."""

import copy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodiff.problems import batch, batch_norm, batches, convolutional, dropout, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Hypergradient, hypergradient, pullback, tracing

STEPS = 40
TOLD = "Steps are differentiated one by one"


def run(model: nn.Module, loss: Any = loss_fn, data: Any = None, **options: Any) -> Hypergradient:
    torch.manual_seed(3)
    update = options.pop("update", None) or SGD(
        Schedule("lr", [0.2] * 4), momentum=Schedule("momentum", [0.5])
    )
    return hypergradient(
        model,
        loss,
        update,
        data or batches(STEPS),
        options.pop("validation", None) or batch(20),
        **{"steps": STEPS, "mode": "reverse", **options},
    )


def both(monkeypatch: pytest.MonkeyPatch, model: nn.Module, **options: Any) -> list[Hypergradient]:
    """By autograd, and by traces where these are possible."""
    monkeypatch.setattr(pullback, "_WORTH", STEPS)
    by_autograd = run(copy.deepcopy(model), **options)
    monkeypatch.setattr(pullback, "_WORTH", 4)
    return [by_autograd, run(model, **options)]


def same(first: Hypergradient, second: Hypergradient) -> bool:
    pairs = zip(first.per_step.values(), second.per_step.values(), strict=True)
    return first.gradient == second.gradient and all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each call of a trace."""
    calls: list[int] = []
    call = pullback.Trace.__call__
    monkeypatch.setattr(
        pullback.Trace, "__call__", lambda self, inputs: calls.append(1) or call(self, inputs)
    )
    return calls


@pytest.mark.parametrize("model", [mlp, batch_norm, convolutional, dropout])
@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("estimate", ["exact", "damped"])
def test_traces_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, replays: list[int], model: Any, clip: Any, estimate: Any
) -> None:
    options = {"clip_products": clip, "estimate": estimate}
    assert same(*both(monkeypatch, model(), **options))
    assert len(replays) > STEPS // 2


def test_traces_serve_adamw_and_hyperparameters_of_the_loss(
    monkeypatch: pytest.MonkeyPatch, replays: list[int]
) -> None:
    def loss(model: nn.Module, one: Any, hypers: Any) -> Tensor:
        squares = sum(p.square().sum() for p in model.parameters())
        return hypers["weight"][0] * loss_fn(model, one) + hypers["decay"] * squares

    hypers = {"decay": Schedule("decay", [0.01, 0.02]), "weight": torch.ones(3)}
    update = AdamW(Schedule("lr", [0.01] * 2), betas=(Schedule("beta", [0.9]), 0.99))
    first, second = both(monkeypatch, mlp(), loss=loss, hypers=hypers, update=update)
    assert same(first, second)
    assert torch.equal(first.tensors["weight"], second.tensors["weight"])
    assert replays


def test_batches_of_several_sizes_have_a_trace_each(
    monkeypatch: pytest.MonkeyPatch, replays: list[int]
) -> None:
    data = [batch(8 if i % 4 else 5) for i in range(STEPS)]
    assert same(*both(monkeypatch, mlp(), data=data))
    assert len(replays) > STEPS // 2


class Reader(nn.Module):
    """A layer whose float32 kernel keeps a workspace for its backward operation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.unsqueeze(-1))[0][:, -1])


def test_kernels_of_single_precision_are_run_again(
    monkeypatch: pytest.MonkeyPatch, replays: list[int], log: pytest.LogCaptureFixture
) -> None:
    torch.set_default_dtype(torch.float32)  # the fixture of this folder puts it back
    assert same(*both(monkeypatch, Reader()))
    assert len(replays) > STEPS // 2
    assert TOLD not in log.text


def test_operations_that_fail_when_run_again_are_told(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def fails(self: object, inputs: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(pullback.Trace, "__call__", fails)
    assert same(*both(monkeypatch, dropout()))
    assert "cannot run its operations again (no such kernel)" in log.text


class Annealed(nn.Module):
    """A model whose output depends on a Python number that the batches set."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = mlp(), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_a_python_number_that_changes_is_found_out(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def data(step: int) -> Any:
        model_of[0].scale = 1.0 + step / STEPS
        return batches(STEPS)[step]

    model_of: list[Annealed] = []

    def result(worth: int) -> Hypergradient:
        monkeypatch.setattr(pullback, "_WORTH", worth)
        torch.manual_seed(5)
        model_of[:] = [Annealed()]
        return run(model_of[0], data=data)

    by_autograd = result(STEPS)
    assert same(by_autograd, result(4))
    assert f"{TOLD}, which takes longer: its operations change from step to step" in log.text


class Branching(nn.Module):
    """Its control flow depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if float(y.detach().sum()) > 0 else 2 * y


def test_control_flow_by_values_is_not_traced(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, replays: list[int]
) -> None:
    assert same(*both(monkeypatch, Branching()))
    assert TOLD in log.text
    assert not replays


class Scaled(torch.autograd.Function):
    """Scales gradients by a number, not the value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.scale, None


def hooked(loss: Tensor, scale: float) -> Tensor:
    same = loss * 1.0
    same.register_hook(lambda g: g * scale)
    return same


SCALED = {
    "function": Scaled.apply,
    "hook": hooked,
    "detach": lambda loss, scale: loss + (scale - 1) * (loss - loss.detach()),
}
CHANGES = {"step by step": lambda step: step / STEPS, "once": lambda step: float(step >= 10)}


@pytest.mark.parametrize(
    ("scaled", "change", "memory"),
    [*product(SCALED, CHANGES, [None]), ("detach", "once", 6_000)],
)
def test_a_number_that_only_the_gradient_shows_is_found_out(
    monkeypatch: pytest.MonkeyPatch, scaled: str, change: str, memory: int | None
) -> None:
    """The loss is the same; once it changes where no step is checked by autograd."""
    scales = {"now": 1.0}

    def data(step: int) -> Any:
        scales["now"] = 1.0 + CHANGES[change](step)
        return batches(STEPS)[step]

    def loss(model: nn.Module, one: Any) -> Tensor:
        return SCALED[scaled](loss_fn(model, one), scales["now"])

    assert same(*both(monkeypatch, mlp(), loss=loss, data=data, memory=memory))


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_lengths_beyond_single_precision_are_measured(scale: float) -> None:
    """Their squares are not numbers of single precision."""
    model, data = mlp().float(), [(x.float(), y) for x, y in batches(STEPS)]
    plain, scaled = (
        run(
            copy.deepcopy(model),
            data=data,
            validation=data[0],
            validation_loss_fn=lambda model, one, by=by: by * loss_fn(model, one),
        )
        for by in (1.0, scale)
    )
    assert np.allclose(scaled.growth.per_step, plain.growth.per_step, atol=1e-4)
    assert np.allclose(scaled.growth.damping, plain.growth.damping, atol=1e-4)
    assert plain.growth.per_step.any()


@pytest.mark.parametrize("lr", [Schedule("lr", [0.2] * 4), Schedule("lr", [0.2, 0.1], "linear")])
def test_forward_mode_takes_the_update_from_a_trace(
    monkeypatch: pytest.MonkeyPatch, replays: list[int], lr: Schedule
) -> None:
    """And gives the bits of torch.func, with windows that begin, and constants that change."""
    update = SGD(lr, momentum=Schedule("momentum", [0.5, 0.9]), weight_decay=0.01)
    model, data, validation = mlp(), batches(STEPS), batch(20)

    def forward(learn: list[str] | None) -> Hypergradient:
        options: dict[str, Any] = {"steps": STEPS, "mode": "forward", "learn": learn}
        return hypergradient(copy.deepcopy(model), loss_fn, update, data, validation, **options)

    for learn in (None, ["momentum_0"]):
        found = forward(learn)
        n_replays = len(replays)
        assert bool(n_replays) == (learn is None or lr.form == "constant")
        with monkeypatch.context() as patch:
            patch.setattr(tracing, "traced", lambda function, *_, **__: ("not now", function()[1]))
            assert forward(learn).gradient == found.gradient
        assert len(replays) == n_replays
        replays.clear()


class Stepped:
    """Gradient descent at twice the rate where it is small, by a branch on its value."""

    def __init__(self, lr: Schedule) -> None:
        self.hypers = {"lr": lr}

    def __call__(self, weights: Tensor, state: Any, gradient: Tensor, hypers: Any) -> Any:
        lr = hypers["lr"]
        return weights - (lr if bool(lr > 0.05) else 2 * lr) * gradient, state


def test_an_update_may_branch_on_its_hyperparameters() -> None:
    model, data, validation = mlp(), batches(STEPS), batch(20)
    lr = Schedule("lr", [0.1, 0.01], "linear")
    forward, reverse = (
        hypergradient(
            copy.deepcopy(model),
            loss_fn,
            Stepped(lr),
            data,
            validation,
            steps=STEPS,
            mode=mode,
        ).gradient
        for mode in ("forward", "reverse")
    )
    assert forward == pytest.approx(reverse, rel=1e-10)


def test_a_later_run_compiles_nothing(replays: list[int]) -> None:
    run(mlp())
    misses = tracing._program.cache_info().misses
    found = run(mlp())
    assert replays
    assert tracing._program.cache_info().misses == misses
    assert found.gradient


def close(first: Hypergradient, second: Hypergradient) -> bool:
    return all(
        value == pytest.approx(second.gradient[name], rel=1e-9)
        for name, value in first.gradient.items()
    )


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each compilation."""
    calls: list[int] = []
    compiled = tracing.compiled
    monkeypatch.setattr(
        tracing, "compiled", lambda graph, given: calls.append(1) or compiled(graph, given)
    )
    tracing._program.cache_clear()
    return calls


NOT_COMPILED = "steps back are not compiled"


@pytest.mark.slow
def test_compiled_steps_give_the_same_and_are_compiled_once(
    compilations: list[int], log: pytest.LogCaptureFixture
) -> None:
    model = mlp()
    expected = run(copy.deepcopy(model))
    for _ in range(2):
        assert close(run(copy.deepcopy(model), compiled=True), expected)
    assert len(compilations) == 1
    assert NOT_COMPILED not in log.text


@pytest.mark.slow
@pytest.mark.parametrize("model", [batch_norm, convolutional, dropout])
def test_compiled_steps_of_other_models_give_the_same(
    compilations: list[int], log: pytest.LogCaptureFixture, model: Any
) -> None:
    made = model()
    assert close(run(copy.deepcopy(made), compiled=True), run(made))
    assert len(compilations) == 1
    assert NOT_COMPILED not in log.text


def test_without_a_compiler_steps_are_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    def fails(*arguments: object) -> None:
        attempts.append(1)
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(tracing, "compiled", fails)
    tracing._program.cache_clear()
    model = mlp()
    expected = run(copy.deepcopy(model))
    for _ in range(2):
        log.clear()
        assert same(run(copy.deepcopy(model), compiled=True), expected)
        assert NOT_COMPILED in log.text
        assert "RuntimeError: no C++ compiler" in log.text
    assert len(attempts) == 1  # later trials do not wait for it again


def test_compiled_code_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def wrong(graph: Any, arguments: Any) -> Any:
        def run(*arguments: Tensor) -> list[Tensor]:
            measured, *rest = GraphModule({}, graph)(*arguments)
            return [measured, *(1.1 * one for one in rest)]

        return run

    monkeypatch.setattr(tracing, "compiled", wrong)
    tracing._program.cache_clear()
    model = mlp()
    assert same(run(copy.deepcopy(model), compiled=True), run(model))
    assert NOT_COMPILED in log.text


def test_nothing_is_compiled_in_forward_mode() -> None:
    update = SGD(Schedule("lr", [0.2]))
    with pytest.raises(ValueError, match="compiled=True compiles steps back"):
        run(mlp(), update=update, mode="forward", compiled=True)
    # Of one parameter, and too few steps to compile.
    assert run(mlp(), update=update, mode="auto", steps=8, compiled=True).mode == "reverse"
