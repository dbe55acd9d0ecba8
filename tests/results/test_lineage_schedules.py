"""The schedules of a lineage, against one training with them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore
from torch import nn

from optuna_hypergrad import (
    PopulationSampler,
    Schedule,
    lineage,
    lineage_schedules,
    members,
    report_hypergradient,
    suggest_schedule,
)
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.integrations import HyperparameterScheduler
from optuna_hypergrad.reports import StoredDataError, report_refined
from samplers.populations import create

STEPS = 6  # of a segment
DRAWS = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, generator=DRAWS, dtype=torch.float64)
Y = torch.randn(24, 1, generator=DRAWS, dtype=torch.float64)


def new_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def batch_at(step: int) -> Any:
    return X[step % 4 :: 4], Y[step % 4 :: 4]


@pytest.fixture
def store(tmp_path: Path) -> FileSystemArtifactStore:
    return FileSystemArtifactStore(tmp_path)


def test_one_training_without_a_population_ends_where_the_best_lineage_does(
    store: FileSystemArtifactStore,
) -> None:
    """Learning rate and decay follow hypergradients between segments, and clones mutate."""

    def segment(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        update = SGD(
            suggest_schedule(trial, "lr", 1e-3, 1.0, log=True),
            weight_decay=suggest_schedule(trial, "decay", 0.0, 0.1),
        )
        model = new_model()
        steps = member.restore(model=model).get("steps", 0)
        batches = (batch_at(steps + i) for i in range(STEPS))
        result = hypergradient(model, loss_fn, update, batches, (X, Y), steps=STEPS)
        report_hypergradient(trial, result.gradient)
        member.save(model=model, steps=steps + STEPS)
        return result.loss

    sampler = PopulationSampler(seed=1, population_size=4)
    study = optuna.create_study(sampler=sampler)
    study.optimize(segment, n_trials=24)
    found, path = lineage_schedules(study), lineage(study)
    assert any(one.is_clone for one in path) and len(path) >= 4
    assert found["lr"].windows == len(path)
    update = SGD(found["lr"], weight_decay=found["decay"])
    steps = STEPS * len(path)
    result = hypergradient(new_model(), loss_fn, update, batch_at, (X, Y), steps=steps, learn=())
    assert result.loss == pytest.approx(study.best_value, rel=1e-12)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_fn(model, batch_at(step)).backward()
        optimizer.step()


def test_momentum_continues_through_clones_and_through_the_repetition(
    store: FileSystemArtifactStore,
) -> None:
    """With torch's optimizer, to the last bit; segments have windows of their own."""

    def segment(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = suggest_schedule(trial, "lr", 1e-3, 0.3, log=True, windows=3)
        momentum = suggest_schedule(trial, "momentum", 0.1, 0.9)
        model = new_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr.values[0], momentum=0.5)
        begun = member.restore(model=model, optimizer=optimizer, uses={}).get("steps", 0)
        own = HyperparameterScheduler(optimizer, {"lr": lr, "momentum": momentum}, STEPS)
        for step in range(begun, begun + STEPS):
            train(model, optimizer, [step])
            own.step()
        member.save(model=model, optimizer=optimizer, steps=begun + STEPS)
        return loss_fn(model, (X, Y)).item()

    sampler = PopulationSampler(seed=1, population_size=4, mutation="perturb")
    study = optuna.create_study(sampler=sampler)
    study.optimize(segment, n_trials=24)
    number = study.trials[-1].number
    found, path = lineage_schedules(study, number), lineage(study, number)
    assert found["lr"].windows == 3 * len(path) and found["momentum"].windows == len(path)
    model, steps = new_model(), STEPS * len(path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    scheduler = HyperparameterScheduler(optimizer, found, steps)
    for step in range(steps):
        train(model, optimizer, [step])
        scheduler.step()
    assert loss_fn(model, (X, Y)).item() == study.trials[number].value


def test_refined_values_are_interpolated_between_start_and_end() -> None:
    """In log ranges geometrically; in the middle of each window."""

    def segment(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        noise = trial.suggest_float("noise", 0.0, 2.0)
        trial.suggest_float("fixed", 0.0, 1.0)
        report_refined(trial, {"lr": lr / 16, "noise": noise + 0.4})
        return 1.0

    study = create(population_size=1)
    study.enqueue_trial({"lr": 0.16, "noise": 1.0, "fixed": 0.5})
    study.optimize(segment, n_trials=2)
    found, path = lineage_schedules(study, 1, cuts=2), lineage(study, 1)
    assert [one.trial for one in path] == [0, 1]
    assert found["lr"].values == pytest.approx([0.08, 0.02, 0.005, 0.00125])
    assert found["noise"].values == pytest.approx([1.1, 1.3, 1.5, 1.7])
    assert found["fixed"].values == (0.5, 0.5)
    assert found["lr"].log and not found["noise"].log
    assert lineage_schedules(study, 0)["lr"].windows == 10


def test_refined_values_are_taken_as_the_next_segment_takes_them() -> None:
    """Outside of the range at the bound; what is not finite is none."""

    def segment(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 0.01, 1.0, log=True)
        trial.suggest_float("noise", 0.0, 1.0)
        report_refined(trial, {"lr": -3.0, "noise": float("nan")})
        return 1.0

    study = create(population_size=1)
    study.enqueue_trial({"lr": 1.0, "noise": 0.5})
    study.optimize(segment, n_trials=1)
    found = lineage_schedules(study, cuts=1)
    assert found["lr"].values == pytest.approx([0.1])
    assert found["noise"].values == (0.5,)


def test_a_schedule_that_moves_from_knot_to_knot_is_cut_into_windows() -> None:
    def segment(trial: optuna.Trial) -> float:
        suggest_schedule(trial, "lr", 0.0, 1.0, form="linear")
        return 1.0

    study = create(population_size=1)
    study.enqueue_trial({"lr_0": 1.0, "lr_1": 0.0})
    study.optimize(segment, n_trials=1)
    assert lineage_schedules(study, cuts=4)["lr"] == Schedule("lr", [0.875, 0.625, 0.375, 0.125])


def test_segments_whose_checkpoint_was_lost_are_left_out() -> None:
    def segment(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.number == 3:
            trial.set_user_attr("hg:restored", 1)
        return x

    study = create(population_size=1, mutation="perturb")
    study.optimize(segment, n_trials=5)
    assert [one.trial for one in lineage(study, 4)] == [0, 1, 2, 3, 4]
    expected = tuple(study.trials[number].params["x"] for number in (0, 1, 3, 4))
    assert lineage_schedules(study, 4)["x"].values == expected


@pytest.mark.parametrize("restored", [2, 9, "x", -1, 1.5])
def test_a_damaged_record_of_what_was_restored_is_refused(restored: Any) -> None:
    def segment(trial: optuna.Trial) -> float:
        if trial.number == 2:
            trial.set_user_attr("hg:restored", restored)
        return trial.suggest_float("x", 0.0, 1.0)

    study = create(population_size=1)
    study.optimize(segment, n_trials=3)
    with pytest.raises(StoredDataError, match=r"trial 2.*restored"):
        lineage_schedules(study, 2)


def test_a_hyperparameter_that_some_segments_lack_is_named() -> None:
    def segment(trial: optuna.Trial) -> float:
        if trial.number:
            trial.suggest_float("late", 0.0, 1.0)
        return trial.suggest_float("x", 0.0, 1.0)

    study = create(population_size=1)
    study.optimize(segment, n_trials=2)
    with pytest.raises(ValueError, match="study: trial 0 of the lineage ran without 'late'"):
        lineage_schedules(study, 1)


def test_studies_of_other_samplers_have_no_lineage() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(ValueError, match="no segment of a population has been completed"):
        lineage_schedules(study)
