"""HyperTraining: what its steps move, and that its hypergradients are right."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector as vector

from hypernet.problems import TRANSFORMS, VALUES, batch, loss_fn, mlp, training
from hypernet.ridge import Ridge
from optuna_hypergrad.hypernet import HyperTraining


@pytest.mark.parametrize("penalty", [0.05, 0.5, 5.0])
def test_the_response_is_that_of_retraining(penalty: float) -> None:
    # Errors per unit of log λ, relative to the steepest derivative: .01 to .05 on these data; over
    # four draws of the data a mean of .07 and a worst of .26.
    ridge, steps = Ridge(), 400
    run = ridge.training(penalty, scale=0.2)
    for step in range(steps):
        run.optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        run.train_step(ridge.batch)
    steepest = max(abs(ridge.retrained(λ)[1]) * λ for λ in (0.05, 0.5, 5.0))
    expected = ridge.retrained(penalty)[1]
    found = run.hypergradient(ridge.validation)["penalty"]
    assert found * penalty == pytest.approx(expected * penalty, abs=0.1 * steepest)
    assert found * expected > 0


def test_hyper_training_finds_the_best_penalty() -> None:
    ridge, start = Ridge(), 5.0
    run = ridge.training(start, scale=0.3, lr=0.03)
    for _ in range(600):
        run.step(ridge.batch, ridge.validation)
    best = min(ridge.retrained(λ)[0] for λ in np.geomspace(0.02, 50.0, 100))
    excess = ridge.retrained(run.values["penalty"])[0] - best
    assert excess < 0.1 * (ridge.retrained(start)[0] - best)


@pytest.mark.parametrize("centred", [True, False])
def test_hypergradients_are_those_of_finite_differences_in_natural_units(centred: bool) -> None:
    run, data = training(centred), batch()
    run.train_step(data)  # running statistics other than the initial ones
    hypergradient = run.hypergradient(data)
    run.student.eval()

    def loss(name: str, change: float) -> float:
        point = run.conditioning.centre.clone()
        index = list(TRANSFORMS).index(name)
        value = run.values[name] + change
        point[index] = TRANSFORMS[name].unconstrain(value)
        with run.conditioning.at(point):
            return loss_fn(run.student, data).item()

    for name in ("rate", "noise"):
        expected = (loss(name, 1e-6) - loss(name, -1e-6)) / 2e-6
        assert hypergradient[name] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_batches_are_weighted_by_their_examples() -> None:
    run, (x, y) = training(), batch(12)
    together = run.hypergradient((x, y))
    pieces = [(x[:3], y[:3]), (x[3:], y[3:])]
    assert run.hypergradient(pieces) == pytest.approx(together)
    assert run.hypergradient(iter(pieces)) == pytest.approx(together)


def test_each_kind_of_step_moves_its_own_values() -> None:
    run, data = training(), batch()
    weights, state = vector(run.student.parameters()).detach(), run.state_dict()
    buffers = copy.deepcopy(dict(run.student.named_buffers()))
    run.validation_step(data)
    run.hypergradient(data)
    torch.testing.assert_close(vector(run.student.parameters()), weights, rtol=0, atol=0)
    torch.testing.assert_close(dict(run.student.named_buffers()), buffers)
    assert all(p.grad is None for p in run.student.parameters())
    moved = run.state_dict()
    assert (moved["centre"] != state["centre"]).all() and (moved["scale"] != state["scale"]).all()
    run.train_step(data)
    assert (vector(run.student.parameters()) != weights).any()
    torch.testing.assert_close(run.state_dict(), moved, rtol=0, atol=0)


def test_scales_stay_unless_they_are_tuned() -> None:
    run, data = training(tune_scale=False, scale=0.7), batch()
    losses = [run.validation_step(data) for _ in range(2)]
    assert run.scales == pytest.approx(dict.fromkeys(TRANSFORMS, 0.7))
    run.student.eval()
    assert run.values != pytest.approx(VALUES, abs=1e-6)
    assert losses[0] == loss_fn(run.student, data)  # unperturbed


def test_steps_have_their_ratio() -> None:
    run, data = training(train_steps=3, validation_steps=2), batch()
    calls = []
    run.train_step = lambda b: calls.append("train")
    run.validation_step = lambda b: calls.append("validation")
    for _ in range(6):
        run.step(data, data)
    assert calls == [*["train"] * 3, *["validation"] * 2] * 2


def test_entropy_keeps_the_scales_up() -> None:
    def scale(entropy_weight: float) -> float:
        torch.manual_seed(0)
        run, data = training(entropy_weight=entropy_weight, lr=0.1), batch()
        for _ in range(60):
            run.validation_step(data)
        return sum(run.scales.values())

    assert scale(0.0) < scale(0.1) < scale(1.0)


def test_modes_are_restored_even_after_errors() -> None:
    run, data = training(), batch()
    run.student[2].eval()
    modes = [module.training for module in run.student.modules()]
    run.validation_step(data)
    assert [module.training for module in run.student.modules()] == modes

    def broken(model: nn.Module, batch: object) -> torch.Tensor:
        assert not model.training
        raise RuntimeError("broken")

    failing = HyperTraining(run.student, loss_fn, run.optimizer, validation_loss_fn=broken)
    for call in (failing.validation_step, failing.hypergradient):
        with pytest.raises(RuntimeError, match="broken"):
            call(data)
        assert [module.training for module in run.student.modules()] == modes
        assert run.conditioning.point is run.conditioning.centre


@pytest.mark.parametrize("tune_scale", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_restored_run_continues_identically(steps: int, tune_scale: bool) -> None:
    data, run = batch(), training(tune_scale=tune_scale)
    for _ in range(steps):
        run.step(data, data)
    state = (run.student.state_dict(), run.optimizer.state_dict(), run.state_dict())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = training(tune_scale=tune_scale)
    for part, saved in zip((other.student, other.optimizer, other), torch.load(file), strict=True):
        part.load_state_dict(saved)
    ends = []
    for each in (run, other, copy.deepcopy(other)):
        torch.manual_seed(1)
        for _ in range(3):
            each.step(data, data)
        ends.append((each.state_dict(), each.student.state_dict()))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=0)


def test_restored_moments_are_of_the_students_kind() -> None:
    """Else a student on a GPU, restored from a checkpoint, fails at its next validation step."""
    run = training()
    run.step(batch(), batch())
    run.step(batch(), batch())
    state = run.state_dict()
    moments = {name for name in state if "exp_avg" in name}
    run.load_state_dict({n: t.double() if n in moments else t for n, t in state.items()})
    torch.testing.assert_close(run.state_dict(), state, rtol=0, atol=0)
    run.validation_step(batch())


def test_states_are_flat_tensors() -> None:
    run = training()
    run.step(batch(), batch())
    run.step(batch(), batch())
    assert all(type(tensor) is torch.Tensor for tensor in run.state_dict().values())
    assert run.state_dict().keys() >= {"centre", "scale", "centre.exp_avg", "scale.exp_avg_sq"}


def test_a_clone_takes_new_values() -> None:
    run = training()
    run.set_values({"rate": 0.7})
    assert run.values == pytest.approx(VALUES | {"rate": 0.7})
    run.validation_step(batch())
    assert run.values["rate"] == pytest.approx(0.7, abs=0.01)


def test_bad_input_names_the_argument() -> None:
    run = training()
    with pytest.raises(ValueError, match="model: expected one conditioning in it, found 0"):
        HyperTraining(mlp(), loss_fn, run.optimizer)
    for name in ("lr", "scale", "train_steps", "validation_steps"):
        with pytest.raises(ValueError, match=rf"{name} must be (a )?positive.*, got 0"):
            training(**{name: 0})
    with pytest.raises(ValueError, match=r"train_steps must be a positive integer, got 1\.5"):
        training(train_steps=1.5)
    with pytest.raises(ValueError, match="entropy_weight must be at least 0, got -5"):
        training(entropy_weight=-5)
    with pytest.raises(ValueError, match="optimizer has no parameter of the student; create it"):
        HyperTraining(run.student, loss_fn, torch.optim.SGD(mlp().parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"lacks \['scale', 'steps'\]"):
        run.load_state_dict({"centre": torch.zeros(3)})
    with pytest.raises(ValueError, match="batches: got no examples"):
        run.hypergradient([])
    state = run.state_dict() | {"centre": torch.zeros(1)}
    with pytest.raises(ValueError, match="state: expected 3 hyperparameters, got 1"):
        run.load_state_dict(state)
