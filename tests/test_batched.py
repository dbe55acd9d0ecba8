"""Trials of a study whose training runs are computed as one."""

import threading
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from optuna import Study, Trial, TrialPruned
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from optuna_hypergrad import (
    DivergencePruner,
    GradientSampler,
    PopulationSampler,
    optimize_batched,
    report_hypergradient,
    suggest_schedule,
    watch,
)
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.batched.together import Together

STEPS = 20
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X.sum(-1) > 0).long()


def loss_fn(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def objective(trial: Trial, **options: Any) -> float:
    lr = suggest_schedule(trial, "lr", 0.01, 1.0, windows=2, log=True)
    decay = trial.suggest_float("decay", 0.0, 0.1)
    torch.manual_seed(trial.number)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    update = SGD(lr, weight_decay=decay)
    result = hypergradient(model, loss_fn, update, [(X, Y)], (X, Y), steps=STEPS, **options)
    report_hypergradient(trial, result)
    trial.set_user_attr("hypergradient", result.gradient)
    return result.loss


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups of runs that were computed as one."""
    found: list[int] = []
    compute = Together.compute

    def watched(self: Together) -> Any:
        results = compute(self)
        found.append(len(results))
        return results

    monkeypatch.setattr(Together, "compute", watched)
    return found


def study_of(sampler: BaseSampler | None = None, **options: Any) -> Study:
    sampler = RandomSampler(seed=0) if sampler is None else sampler
    return optuna.create_study(sampler=sampler, **options)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_trials_are_those_of_study_optimize(sizes: list[int]) -> None:
    found, alone = study_of(), study_of()
    optimize_batched(found, objective, 7, batch_size=3)
    alone.optimize(lambda trial: objective(trial, mode="reverse"), n_trials=7)
    assert sizes == [3, 3]  # the last trial is alone
    for one, other in zip(found.trials, alone.trials, strict=True):
        assert one.params == other.params
        assert one.value == pytest.approx(other.value)
        gradients = [t.user_attrs["hypergradient"] for t in (one, other)]
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [
        GradientSampler(seed=0),
        GradientSampler(seed=0, strategy="sign_descent", n_replicates=4),
        PopulationSampler(seed=0, population_size=4),
    ],
    ids=["process", "replicates", "population"],
)
def test_our_samplers(sampler: BaseSampler, sizes: list[int]) -> None:
    study = study_of(sampler)
    optimize_batched(study, objective, 12, batch_size=4)
    assert states(study) == ["COMPLETE"] * 12
    assert sizes == [4, 4, 4]
    assert study.best_value < study.trials[0].value


def test_a_storage_and_a_second_process(tmp_path: Any) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = study_of(storage=storage, study_name="study")
    optimize_batched(study, objective, 4, batch_size=4)
    again = optuna.load_study(study_name="study", storage=storage, sampler=RandomSampler(seed=1))
    optimize_batched(again, objective, 3, batch_size=2)
    assert states(again) == ["COMPLETE"] * 7


def test_pruned_trials_and_those_that_fail(sizes: list[int]) -> None:
    def unlucky(trial: Trial) -> float:
        if trial.number == 1:
            raise TrialPruned
        if trial.number == 2:
            raise ArithmeticError("of trial 2")
        return objective(trial, on_step=watch(trial, every=5))

    study = study_of(pruner=DivergencePruner())
    optimize_batched(study, unlucky, 4, batch_size=4, catch=ArithmeticError)
    assert states(study) == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [t.last_step for t in study.trials] == [15, None, None, 15]
    assert sizes == [2]


@pytest.mark.parametrize("number", [0, 2])
def test_an_exception_ends_the_study_when_all_of_its_batch_are_told(number: int) -> None:
    def unlucky(trial: Trial) -> float:
        if trial.number == number:
            raise ArithmeticError("unlucky")
        return objective(trial)

    study = study_of()
    with pytest.raises(ArithmeticError, match="unlucky"):
        optimize_batched(study, unlucky, 9, batch_size=3)
    assert sorted(states(study)) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert study.trials[number].state is TrialState.FAIL


@pytest.mark.filterwarnings("ignore:The value 'x' could not be cast to float")
def test_values_that_are_none() -> None:
    study = study_of()
    optimize_batched(study, lambda trial: [float("nan"), 1.0, "x"][trial.number], 3, batch_size=3)
    assert states(study) == ["FAIL", "COMPLETE", "FAIL"]


def test_callbacks_see_every_trial_and_can_stop_the_study() -> None:
    seen: list[int] = []

    def callback(study: Study, trial: FrozenTrial) -> None:
        seen.append(trial.number)
        if trial.number == 4:
            study.stop()

    study = study_of()
    optimize_batched(study, objective, 12, batch_size=3, callbacks=[callback])
    assert sorted(seen) == list(range(6))
    assert len(study.trials) == 6


def test_an_objective_can_stop_the_study() -> None:
    def stopping(trial: Trial) -> float:
        if trial.number == 1:
            trial.study.stop()
        return 1.0

    study = study_of()
    optimize_batched(study, stopping, 12, batch_size=3)
    assert states(study) == ["COMPLETE"] * 3


@pytest.mark.parametrize("catch", [(), RuntimeError])
def test_an_error_of_a_callback_ends_the_study_when_all_are_told(catch: Any) -> None:
    def callback(study: Study, trial: FrozenTrial) -> None:
        if trial.number == 1:
            raise RuntimeError("of the callback")

    study = study_of()
    with pytest.raises(RuntimeError, match="of the callback"):
        options: Any = {"callbacks": [callback], "catch": catch, "batch_size": 4}
        optimize_batched(study, lambda trial: 1.0, 8, **options)
    assert states(study) == ["COMPLETE"] * 4


def test_finished_trials_survive_an_interrupt() -> None:
    def interrupted(trial: Trial) -> float:
        if trial.number == 3:
            raise KeyboardInterrupt
        return 1.0 if trial.number == 1 else objective(trial)

    study = study_of()
    with pytest.raises(KeyboardInterrupt):
        optimize_batched(study, interrupted, 4, batch_size=4)
    assert states(study)[1] == "COMPLETE" and states(study)[3] == "FAIL"


def test_errors_of_all_trials_are_logged(log: pytest.LogCaptureFixture) -> None:
    def unlucky(trial: Trial) -> float:
        raise ArithmeticError(f"of trial {trial.number}")

    optimize_batched(study_of(), unlucky, 3, batch_size=3, catch=ArithmeticError)
    assert all(f"of trial {number}" in log.text for number in range(3))


def test_an_interrupt_leaves_no_trial_and_no_thread_running() -> None:
    def interrupted(trial: Trial) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return objective(trial)

    study, before = study_of(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        optimize_batched(study, interrupted, 6, batch_size=3)
    assert threading.active_count() == before
    assert "RUNNING" not in states(study)


def test_an_interrupt_of_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Together) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Together, "compute", interrupt)
    study, before = study_of(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        optimize_batched(study, objective, 6, batch_size=3)
    assert threading.active_count() == before
    assert states(study) == ["FAIL"] * 3


def test_trials_draw_different_numbers_though_they_set_no_seed() -> None:
    def drawing(trial: Trial) -> float:
        return float(torch.rand(()))

    torch.manual_seed(0)
    first, second = study_of(), study_of()
    optimize_batched(first, drawing, 4, batch_size=2)
    assert len({trial.value for trial in first.trials}) == 4
    torch.manual_seed(0)
    optimize_batched(second, drawing, 4, batch_size=2)
    assert [t.value for t in first.trials] == [t.value for t in second.trials]


def test_several_objectives() -> None:
    study = study_of(directions=["minimize", "maximize"])
    optimize_batched(study, lambda trial: (objective(trial), 1.0), 4, batch_size=2)
    assert states(study) == ["COMPLETE"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": None}, "study must be an optuna.Study"),
        ({"objective": 3}, "objective must be"),
        ({"n_trials": 0}, "n_trials must be"),
        ({"batch_size": 0.5}, "batch_size must be"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    given = {"study": study_of(), "objective": objective, "n_trials": 1, **options}
    with pytest.raises(ValueError, match=message):
        optimize_batched(**given)
