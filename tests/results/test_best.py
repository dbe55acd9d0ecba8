"""The best trial's schedules, against what it suggested."""

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from optuna_hypergrad import Schedule, best_schedules, report_hypergradient, suggest_schedule
from optuna_hypergrad.reports import StoredDataError
from samplers.populations import bowl, create


def suggested(trial: optuna.Trial) -> list[Schedule]:
    """A schedule of each form, a plain float, and what is no schedule."""
    return [
        suggest_schedule(trial, "lr", 1e-3, 1.0, windows=3, log=True),
        suggest_schedule(trial, "momentum", 0.0, 0.99, windows=2, form="linear"),
        suggest_schedule(trial, "decay", 1e-5, 1e-2, form="cosine", log=True),
        suggest_schedule(trial, "clip", 0.1, 10.0, log=True),
        Schedule("rate", [trial.suggest_float("rate", 0.0, 1.0, step=0.1)]),
    ]


def searched(sampler: optuna.samplers.BaseSampler | None = None, trials: int = 4) -> Any:
    """A study, and the schedules that each of its trials suggested."""
    expected: dict[int, list[Schedule]] = {}

    def objective(trial: optuna.Trial) -> float:
        expected[trial.number] = suggested(trial)
        trial.suggest_int("layers", 1, 3)
        trial.suggest_categorical("kind", ["a", "b"])
        report_hypergradient(trial, {"lr_0": 1.0})
        return abs(2.5 - trial.number)

    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return study, expected


def test_every_float_of_the_best_trial_comes_back_as_it_was_suggested() -> None:
    study, expected = searched()
    found = best_schedules(study)
    assert study.best_trial.number == 2
    assert [*found.values()] == expected[2]
    assert all(found == best_schedules(study, 2) != best_schedules(study, n) for n in (0, 1, 3))


def test_another_trial_may_be_named_even_a_pruned_one_or_one_of_several_objectives() -> None:
    study, expected = searched()
    assert [*best_schedules(study, 1).values()] == expected[1]
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"lr": 0.5},
            distributions={"lr": optuna.distributions.FloatDistribution(0, 1)},
        )
    )
    assert best_schedules(study, 4) == {"lr": Schedule("lr", [0.5])}
    several = optuna.create_study(directions=["minimize"] * 2)
    several.optimize(lambda trial: (trial.suggest_float("lr", 0, 1), 0.0), n_trials=1)
    assert best_schedules(several, 0)["lr"].values == (several.trials[0].params["lr"],)
    with pytest.raises(
        ValueError, match="study: with 2 objectives no trial is the best; pass trial="
    ):
        best_schedules(several)


def test_a_segment_of_a_population_is_a_trial_like_others() -> None:
    study = create()
    study.optimize(bowl, n_trials=8)
    assert best_schedules(study) == {"x": Schedule("x", [study.best_params["x"]])}


def test_a_study_without_a_complete_trial_has_no_best() -> None:
    study = optuna.create_study()
    running = study.ask()
    suggest_schedule(running, "lr", 0, 1, windows=2)
    with pytest.raises(ValueError, match="study: no trial has completed"):
        best_schedules(study)
    for number in (running.number, 7, -1):
        with pytest.raises(ValueError, match=f"trial: {number} is not the number of a complete"):
            best_schedules(study, number)


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"size": 4, "form": "constant", "is_shared": False}, "lr: the trial has no float 'lr_3'"),
        ({"size": 3, "form": "wave", "is_shared": False}, "form must be one of"),
        ({"size": 0, "form": "constant", "is_shared": False}, "size"),
        ({"size": 3}, "form"),
        (3, "hg:schedules is damaged"),
    ],
)
def test_damaged_shapes_are_refused(shape: Any, message: str) -> None:
    study, _ = searched(trials=1)
    trial = study.trials[0]
    trial.system_attrs["hg:schedules"]["schedules"]["lr"] = shape
    damaged = optuna.create_study()
    damaged.add_trial(trial)
    with pytest.raises(StoredDataError, match=message):
        best_schedules(damaged)


def test_a_schedule_and_a_parameter_of_one_name_are_named() -> None:
    study = optuna.create_study()
    trial = study.ask()
    suggest_schedule(trial, "lr", 0, 1, windows=2)
    trial.suggest_float("lr", 0, 1)
    study.tell(trial, 1.0)
    with pytest.raises(ValueError, match="study: trial 0 has both a schedule and a parameter 'lr'"):
        best_schedules(study)
