"""The line that each trial begins with: what changes, and why."""

import logging
import re
from collections.abc import Iterator

import optuna
import pytest

from optuna_hypergrad import GradientSampler, PopulationSampler, report_hypergradient
from samplers.studies import ask, create, finish


class Told(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was told so far, without what Optuna itself says."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    told = Told()
    logger = logging.getLogger("optuna.hypergrad")
    logger.addHandler(told)
    yield told.lines
    logger.removeHandler(told)
    optuna.logging.set_verbosity(verbosity)


def test_a_search_tells_what_moves_and_what_became_of_the_step_before(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, start={"y": 0.5}))
    first = study.ask()
    first.suggest_float("x", -1, 1)
    first.suggest_float("y", 1e-2, 1, log=True)
    report_hypergradient(first, {"x": -1.0, "y": 2.0})
    study.tell(first, 3.0)
    study.ask()
    assert lines == [
        "Trial 0: outer step 0, the start.",
        "Trial 1: outer step 1, after trial 0 (3) was accepted: "
        "x 0 → 0.1 (sign −, γ 0.1), y 0.5 → 0.397 (sign +, γ ×1.26).",
    ]


def test_replicates_chains_and_guesses_are_told(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, n_chains=2))
    trials = [ask(study, ["x"]) for _ in range(4)]
    finish(study, trials[0], 3.0, gradient=-1.0)
    finish(study, ask(study, ["x"]), 9.0, gradient=1.0)
    study.enqueue_trial({"x": 0.0})
    ask(study)
    assert lines[1:4] == [
        "Trial 1: outer step 0 of chain 1, the start.",
        "Trial 2: outer step 0 of chain 0, once more at the same point.",
        "Trial 3: outer step 0 of chain 1, once more at the same point.",
    ]
    assert lines[5].startswith("Trial 5: outer step 2 of chain 0, at an enqueued point.")


def test_a_rejected_step_leads_back(lines: list[str]) -> None:
    study = create()
    for loss in (3.0, 2.0, 9.0, 2.2):
        finish(study, ask(study, ["x"]), loss, gradient=-1.0)
    ask(study, ["x"])
    assert lines[3:] == [
        "Trial 3: outer step 3, after trial 2 (9) was rejected: x 0.2 → 0.1 (sign −, γ 0.05).",
        "Trial 4: outer step 4, after trial 3 (2.2) was measured again: "
        "x 0.1 → 0.15 (sign −, γ 0.05).",
    ]


def test_of_many_moves_some_are_told(lines: list[str]) -> None:
    study = create()
    names = [f"lr_{i}" for i in range(10)]
    finish(study, ask(study, names))
    ask(study, names)
    assert lines[1].count("→") == 8 and lines[1].endswith(", and 2 more.")


def test_a_step_that_diverged_leads_back(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x"]), 3.0)
    finish(study, ask(study, ["x"]), None, optuna.trial.TrialState.PRUNED)
    ask(study, ["x"])
    assert lines[2] == (
        "Trial 2: outer step 2, after trial 1 diverged: x -0.1 → 0 (sign +, γ 0.05)."
    )


def test_a_start_that_diverged_is_followed_by_another(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x"]), None, optuna.trial.TrialState.PRUNED)
    ask(study, ["x"])
    assert lines[1] == "Trial 1: outer step 1, after trial 0 diverged: another start."


def test_no_step_size_is_too_long_to_be_told(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, step_size={"x": 800.0}))
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 1e-3, 1.0, log=True)
        report_hypergradient(trial, {"x": 1.0})
        study.tell(trial, 1.0)
    assert "γ ×inf" in lines[1]


def test_as_many_digits_are_told_as_tell_the_move(lines: list[str]) -> None:
    study = create()
    trial = study.ask()
    trial.suggest_float("x", 1000, 1001)
    trial.suggest_int("n", 0, 40)
    report_hypergradient(trial, {"x": 1.0, "n": 1.0})
    study.tell(trial, 1.0)
    study.ask()
    n = trial.params["n"]
    assert f"x 1000.5 → 1000.45 (sign +, γ 0.05), n {n} → {n - 2} (sign +, γ 2)." in lines[1]


def test_a_population_tells_of_births_of_steps_and_of_clones(lines: list[str]) -> None:
    study = create(PopulationSampler(seed=0, population_size=2, burn_in=0, truncation=0.5))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 1, 2)
        trial.suggest_categorical("kind", ["a", "b"])
        report_hypergradient(trial, {"x": 1.0})
        return x

    study.optimize(objective, n_trials=6)
    members = [trial.user_attrs["hg:member"] for trial in study.trials]
    assert lines[0] == "Trial 0: generation 0, member 0 is born."
    x = [trial.params["x"] for trial in study.trials]
    worse = 2 + members[2:4].index(int(x[1] > x[0]))
    better = 5 - worse
    stepped = f"x {x[better - 2]:.3g} → {x[better]:.3g} (sign +)"
    assert lines[better] == f"Trial {better}: generation 1, member {better - 2} goes on: {stepped}."
    origin = f"member {worse - 2} ← clone of {better - 2} (trial {better - 2})"
    change = f"x {x[better - 2]:.3g} → {x[worse]:.3g}"
    weight = "(one step, weight 1)"  # the teacher knows nothing yet
    assert lines[worse] == f"Trial {worse}: generation 1, {origin}, {change} {weight}."
    # Of the fraction of the range, which begins at 1, after one more step along the hypergradient.
    (weight,) = re.findall(r"one step, weight (.+)\)\.$", lines[5])
    assert float(weight) == pytest.approx((x[5] - 1) / (x[4] - 1), abs=5e-4) and float(weight) < 1


def test_what_a_student_refined_itself_is_told(lines: list[str]) -> None:
    from optuna_hypergrad.reports import report_refined

    study = create(PopulationSampler(seed=0, population_size=1))
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    report_refined(trial, {"x": 0.25})
    study.tell(trial, 1.0)
    study.ask()
    before = f"{trial.params['x']:.3g}"
    assert lines[1] == f"Trial 1: generation 1, member 0 goes on: x {before} → 0.25 (refined)."


def test_verbosity_rules(lines: list[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = create()
    study.ask()
    assert not lines
