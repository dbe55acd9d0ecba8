"""Outer steps as people see them, against searches worked out by hand."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import GradientSampler, outer_steps, report_hypergradient
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.samplers.gradient.history import OuterStep
from samplers.studies import ask, create, finish, quadratic
from samplers.test_constraints import constrain

pytestmark = pytest.mark.usefixtures("sign_descent")


def searched(
    losses: Sequence[float], gradients: Sequence[float], log: bool = False, **options: Any
) -> optuna.Study:
    """A search over x in [−1, 1] (or in [0.01, 1], log), one given outcome after the other.

    It starts at 0 with γ = 0.1 (or at 0.1, with a twentieth of ln 100).
    """

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0.01 if log else -1.0, 1.0, log=log)
        report_hypergradient(trial, {"x": gradients[trial.number]})
        return losses[trial.number]

    study = create(GradientSampler(seed=0, **options))
    study.optimize(objective, n_trials=len(losses))
    return study


def seen(steps: Sequence[OuterStep]) -> list[tuple[float, str, float, float]]:
    """Where x was, what became of the step, γ and where the search goes."""
    rounded = [(s.params["x"], s.step_size["x"], s.proposal["x"]) for s in steps]
    return [
        (round(at, 6), step.verdict, round(gamma, 6), round(to, 6))
        for (at, gamma, to), step in zip(rounded, steps, strict=True)
    ]


def test_a_flip_halves_the_step_size() -> None:
    steps = outer_steps(searched([3.0, 2.0, 1.9], [-1.0, -1.0, 0.5]))
    assert seen(steps) == [
        (0.0, "accepted", 0.1, 0.1),
        (0.1, "accepted", 0.1, 0.2),
        (0.2, "accepted", 0.05, 0.15),
    ]
    assert [step.flipped for step in steps] == [set(), set(), {"x"}]
    assert [step.sign for step in steps] == [{"x": -1}, {"x": -1}, {"x": 1}]
    assert [step.gradient for step in steps] == [{"x": -1.0}, {"x": -1.0}, {"x": 0.5}]
    assert [step.value for step in steps] == [3.0, 2.0, 1.9]


def test_a_rejected_step_goes_back_to_the_best_which_is_measured_again() -> None:
    steps = outer_steps(searched([3.0, 2.0, 10.0, 2.0], [-1.0, -1.0, 1.0, -1.0]))
    assert seen(steps) == [
        (0.0, "accepted", 0.1, 0.1),
        (0.1, "accepted", 0.1, 0.2),
        (0.2, "rejected", 0.05, 0.1),
        (0.1, "measured again", 0.05, 0.15),
    ]
    assert [step.flipped for step in steps] == [set(), set(), {"x"}, set()]


def test_a_step_that_diverged_halves_all_and_turns_nothing() -> None:
    steps = outer_steps(searched([3.0, 2.0], [-1.0, math.nan]))
    assert seen(steps) == [(0.0, "accepted", 0.1, 0.1), (0.1, "diverged", 0.05, 0.0)]
    assert steps[1].gradient == {}
    assert steps[1].value is None
    assert not steps[1].flipped


def test_while_every_start_has_diverged_no_move_is_known() -> None:
    (step,) = outer_steps(searched([3.0], [math.nan]))
    assert step.verdict == "diverged"
    assert (step.step_size, step.sign, step.proposal) == ({}, {}, {})


def test_step_sizes_of_logarithmic_ranges_are_in_e_folds() -> None:
    (step,) = outer_steps(searched([3.0], [-1.0], log=True))
    gamma = math.log(100) / 20
    assert step.step_size["x"] == pytest.approx(gamma)
    assert step.proposal["x"] == pytest.approx(0.1 * math.exp(gamma))


def test_replicates_decide_a_step_by_their_mean() -> None:
    study = searched([3.0, 5.0, 1.0, 1.0, 9.0], [1.0, 3.0, -1.0, math.nan, 1.0], n_replicates=2)
    first, second = outer_steps(study)  # the third waits for another replicate
    assert (first.trials, first.value, first.gradient) == ((0, 1), 4.0, {"x": 2.0})
    assert [report["x"] for report in first.reports] == [1.0, 3.0]
    assert (second.trials, second.verdict) == ((2, 3), "diverged")  # half of them is enough
    assert (second.value, second.gradient) == (1.0, {"x": -1.0})
    assert math.isnan(second.reports[1]["x"])


def test_chains_come_one_after_the_other() -> None:
    study = create(GradientSampler(seed=0, n_chains=2))
    study.optimize(quadratic, n_trials=6)
    steps = outer_steps(study)
    assert [(step.chain, step.step) for step in steps] == [(c, s) for c in (0, 1) for s in range(3)]
    assert [step.trials for step in steps] == [(0,), (2,), (4,), (1,), (3,), (5,)]


@pytest.mark.parametrize("sampler", [None, optuna.samplers.RandomSampler()], ids=type)
def test_the_rule_is_that_of_the_trials_with_any_sampler(sampler: Any) -> None:
    options: dict[str, Any] = {"safeguard": None, "step_size": {"x": 0.2}}
    study = searched([3.0, 2.0, 10.0, 2.0], [-1.0, -1.0, 1.0, -1.0], **options)
    name, storage = study.study_name, study._storage
    loaded = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    assert seen(outer_steps(loaded)) == [
        (0.0, "accepted", 0.2, 0.2),
        (0.2, "accepted", 0.2, 0.4),
        (0.4, "accepted", 0.1, 0.3),  # ten times as bad, and gone on from
        (0.3, "accepted", 0.05, 0.35),
    ]


def test_a_proposal_is_where_the_next_trial_ran() -> None:
    study = create()
    study.optimize(quadratic, n_trials=30)
    steps = outer_steps(study)
    for step, after in pairwise(steps):
        assert after.params == pytest.approx(step.proposal)


def test_studies_of_other_samplers_have_no_outer_steps() -> None:
    study = create(optuna.samplers.RandomSampler(seed=0))
    study.optimize(quadratic, n_trials=3)
    assert outer_steps(study) == []


def test_damaged_steps_raise() -> None:
    study = searched([3.0, 2.0], [-1.0, -1.0])
    trials = study.get_trials()
    trials[1].system_attrs["hg:claim"]["rule"] = {"safeguard": "none"}
    damaged = optuna.create_study()
    damaged.add_trials(trials)
    with pytest.raises(StoredDataError, match="hg:claim"):
        outer_steps(damaged)


@pytest.mark.parametrize(
    "after", [{"safeguard": 0.05}, {"safeguard": None, "step_size": {"x": 0.3}}]
)
def test_each_step_follows_the_sampler_that_continued_from_it(after: dict[str, Any]) -> None:
    study = create(GradientSampler(seed=0, safeguard=None))
    rng = np.random.default_rng(0)
    for number in range(16):
        if number == 8:
            study.sampler = GradientSampler(seed=0, **after)
        trial = ask(study, ["x"])
        finish(study, trial, float(rng.random()), gradient=float(rng.normal()))
    steps = outer_steps(study)
    assert len(steps) == 16
    for step, following in pairwise(steps):
        assert following.params["x"] == pytest.approx(step.proposal["x"], abs=1e-12)


def test_losses_whose_sum_is_no_float_have_a_mean() -> None:
    study = create(GradientSampler(seed=0, n_replicates=2))
    for trial in [ask(study, ["x"]) for _ in range(2)]:
        finish(study, trial, 1e308)
    assert outer_steps(study)[0].value == 1e308
    assert ask(study, ["x"]).params["x"] == -0.1


def constrained(trial: optuna.Trial) -> float:
    """(x − 0.8)² + (y − 0.6)² where x + y ≤ −0.5."""
    x, y = (trial.suggest_float(name, -1, 1) for name in "xy")
    report_hypergradient(trial, {"x": 2 * (x - 0.8), "y": 2 * (y - 0.6)})
    constrain(trial, x + y + 0.5)
    if x + y > -0.5:
        report_hypergradient(trial, {"x": 1.0, "y": 1.0}, constraint="c")
    return (x - 0.8) ** 2 + (y - 0.6) ** 2


def test_flips_at_a_constraint_are_those_that_halve_a_step_size() -> None:
    study = create(GradientSampler(seed=0))
    study.optimize(constrained, n_trials=30)
    steps = outer_steps(study)
    pairs = [(a, b) for a, b in pairwise(steps) if b.verdict == "accepted"]
    assert len(pairs) > 10
    for before, step in pairs:
        halved = {n for n, gamma in step.step_size.items() if gamma == before.step_size[n] / 2}
        assert step.flipped == halved
    turns = [step for before, step in pairs if step.violation and not before.violation]
    assert turns  # at the constraint, where nothing is halved
    assert not any(step.flipped for step in turns)


@pytest.mark.parametrize("end", ["pruned", "failed", "diverged"])
def test_the_status_says_why_a_step_counts_as_diverged(end: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", -1, 1)
        is_last = trial.number == 2
        report_hypergradient(trial, {"x": math.nan if is_last and end == "diverged" else -1.0})
        if is_last and end == "pruned":
            raise optuna.TrialPruned
        return math.nan if is_last and end == "diverged" else -trial.number

    study = create(GradientSampler(seed=0))
    study.optimize(objective, n_trials=2)
    if end == "failed":  # as often as a step may fail
        for _ in range(3):
            trial = ask(study, ["x"])
            report_hypergradient(trial, {"x": -1.0})
            study.tell(trial, state=TrialState.FAIL)
    else:
        study.optimize(objective, n_trials=1)
    steps = outer_steps(study)
    assert [step.status for step in steps[:2]] == ["accepted", "accepted"]
    assert [(step.verdict, step.status) for step in steps[2:]] == [("diverged", end)]


def test_an_infinite_violation_is_infinite() -> None:
    def impossible(trial: optuna.Trial) -> float:
        constrain(trial, math.inf)
        return quadratic(trial)

    study = create(GradientSampler(seed=0))
    study.optimize(impossible, n_trials=1)
    assert [step.violation for step in outer_steps(study)] == [math.inf]
