"""watch: what is reported of a run, and that a pruner ends it."""

import math
from itertools import pairwise
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FixedTrial

from optuna_hypergrad import (
    DivergencePruner,
    GradientSampler,
    Schedule,
    report_hypergradient,
    wants_hypergradient,
    watch,
)
from optuna_hypergrad.autodiff import SGD, ForwardMode, hypergradient


class PrunesAt(optuna.pruners.BasePruner):
    """Prunes at a step."""

    def __init__(self, step: float = math.inf) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step is not None and trial.last_step >= self.step


def new_trial(pruner: optuna.pruners.BasePruner | None = None) -> optuna.Trial:
    return optuna.create_study(pruner=pruner or PrunesAt()).ask()


def seen(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


def test_the_first_loss_is_reported_and_then_means() -> None:
    trial = new_trial()
    on_step = watch(trial, every=3)
    for step, loss in enumerate([8.0, 1.0, 2.0, 3.0, 7.0]):
        on_step(step, loss)
    assert seen(trial).intermediate_values == {0: 8.0, 3: 2.0}


def test_the_first_loss_that_is_not_finite_is_reported_at_once() -> None:
    trial = new_trial()
    on_step = watch(trial, every=10)
    for step in range(12):
        on_step(step, 1.0 if step < 4 else math.nan)
    values = seen(trial).intermediate_values
    assert list(values) == [0, 4, 10] and math.isnan(values[4])


def test_the_pruner_ends_the_run() -> None:
    on_step = watch(new_trial(PrunesAt(step=4)), every=2)
    for step in range(4):
        on_step(step, 1.0)
    with pytest.raises(optuna.TrialPruned, match="trial 0 was pruned at training step 4"):
        on_step(4, 1.0)


def test_a_norm_is_stored_when_it_has_grown_tenfold() -> None:
    trial = new_trial()
    on_step, norms = watch(trial, every=1), iter([0.0, 1.0, 9.0, 11.0, 50.0, math.inf, math.inf])
    on_step.attach(lambda: next(norms))
    for step in range(7):
        on_step(step, 1.0)
    stored = seen(trial).system_attrs["hg:tangents"]
    assert stored == {"trial": 0, "norms": {"1": 1.0, "3": 11.0, "5": "inf"}}


def test_a_fixed_trial_is_never_pruned() -> None:
    on_step = watch(FixedTrial({}), every=1)
    on_step.attach(lambda: 1.0)
    on_step(0, math.nan)


@pytest.mark.parametrize("every", [0, -1, 2.5, True, None])
def test_every_must_be_a_positive_integer(every: Any) -> None:
    with pytest.raises(ValueError, match="every must be a positive integer, got"):
        watch(new_trial(), every=every)


def run_of(lr: float) -> tuple[Any, ...]:
    """w² in one dimension; w is multiplied by 1 − lr at each step, ∂w/∂lr grows with it."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    return model, lambda model, x: (model(x) ** 2).mean() / 2, SGD(Schedule("lr", [lr]))


def test_forward_mode_reports_tangents() -> None:
    trial, x = new_trial(), torch.ones(1, 1)
    result = hypergradient(*run_of(1.5), [x], x, steps=30, on_step=watch(trial, every=5))
    norms = seen(trial).system_attrs["hg:tangents"]["norms"]
    assert norms == {"0": 1.0} and result.tangent_norm < 10  # contracts, in spite of lr > 1
    backwards = new_trial()
    hypergradient(*run_of(1.5), [x], x, steps=30, mode="reverse", on_step=watch(backwards, every=5))
    assert seen(backwards).intermediate_values == seen(trial).intermediate_values
    assert "hg:tangents" not in seen(backwards).system_attrs


def test_tangents_that_explode_end_the_run_before_the_loss_does() -> None:
    trial, x = new_trial(DivergencePruner(factor=1e6, tangent_factor=2.0)), torch.ones(1, 1)
    with pytest.raises(optuna.TrialPruned):
        hypergradient(*run_of(2.5), [x], x, steps=100, on_step=watch(trial, every=2))
    losses = seen(trial).intermediate_values
    assert max(losses) < 30 and max(losses.values()) < 1e6 * losses[0]


def test_your_own_loop_attaches_its_tangents() -> None:
    trial, x = new_trial(), torch.ones(1, 1)
    run, on_step = ForwardMode(*run_of(3.0), steps=20), watch(trial, every=1)
    on_step.attach(lambda: run.tangent_norm)
    for step in range(20):
        on_step(step, float(run.step(x)))
    norms = list(seen(trial).system_attrs["hg:tangents"]["norms"].values())
    assert all(later >= 10 * norm for norm, later in pairwise(norms))
    assert run.tangent_norm / 10 < norms[-1] <= run.tangent_norm


def test_trials_of_a_gaussian_process_are_watched() -> None:
    sampler = GradientSampler(seed=0, strategy="gaussian_process")
    study = optuna.create_study(sampler=sampler, pruner=DivergencePruner(factor=100.0))

    def objective(trial: optuna.Trial) -> float:
        lr, on_step, x = (
            trial.suggest_float("lr", 0.0, 4.0),
            watch(trial, every=5),
            torch.ones(1, 1),
        )
        on = {"learn": None if wants_hypergradient(trial) else ()}
        result = hypergradient(*run_of(lr), [x], x, steps=30, on_step=on_step, **on)
        report_hypergradient(trial, result)
        return result.loss

    study.enqueue_trial({"lr": 3.5})
    study.optimize(objective, n_trials=7)
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "PRUNED" and "COMPLETE" in states
    assert all(0 in trial.intermediate_values for trial in study.trials)
