"""TruncationPruner: it prunes what would be truncated, and nothing else."""

import math
import warnings
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import PopulationSampler, TruncationPruner, report_hypergradient
from optuna_hypergrad.reports.segments import read_segment
from samplers.populations import population_of, segments

STEPS = 4


def create(direction: str = "minimize", **arguments: Any) -> optuna.Study:
    arguments = {"seed": 0, "population_size": 5, **arguments}
    return optuna.create_study(
        study_name="study",
        direction=direction,
        sampler=PopulationSampler(**arguments),
        pruner=TruncationPruner(),
    )


def segment(trial: optuna.Trial, sign: float = 1.0) -> float:
    """Reports are ordered as the losses at the end are, at every step."""
    loss = (trial.suggest_float("x", -1, 1) - 0.3) ** 2
    report_hypergradient(trial, {"x": 0.0})
    for step in range(STEPS):
        trial.report(sign * (loss + 1 / (1 + step)), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return sign * loss


def pruned(study: optuna.Study) -> list[int]:
    return [t.number for t in study.get_trials(deepcopy=False) if t.state == TrialState.PRUNED]


def open_trial(study: optuna.Study, *values: float) -> optuna.Trial:
    """A running trial that has reported; its steps begin at 0."""
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    for step, value in enumerate(values):
        trial.report(value, step)
    return trial


def finish(study: optuna.Study, *values: float) -> int:
    trial = open_trial(study, *values)
    study.tell(trial, values[-1])
    return trial.number


def generation(study: optuna.Study, last: float = 1.0) -> None:
    """One generation of five, of which the last has this value."""
    for member in range(5):
        finish(study, *[last if member == 4 else 0.1 * (1 + member)] * STEPS)


@pytest.mark.parametrize("size", [5, 10])
def test_a_pruner_does_not_change_the_population(size: int) -> None:
    """The surrogate sees the losses of the worst, so what it proposes may differ."""
    arguments: dict[str, Any] = {"population_size": size, "mutation": "teacher"}
    with_pruner, without = create(**arguments), create(**arguments)
    without.pruner = optuna.pruners.NopPruner()
    for study in (with_pruner, without):
        study.optimize(segment, n_trials=8 * size)
    assert segments(with_pruner) == segments(without)
    assert with_pruner.best_value == without.best_value
    assert len(pruned(with_pruner)) >= size // 5
    assert not pruned(without)


def test_a_pruned_member_is_replaced_by_a_clone_of_another() -> None:
    study = create(mutation="teacher")
    study.optimize(segment, n_trials=40)
    population = population_of(study)
    for number in pruned(study):
        lost = population[number].segment
        clone = next(s for s in population.attempts(lost.member, lost.generation + 1) if s.done)
        assert clone.is_clone and clone.segment.parent != number


def test_large_values_stay_where_the_study_maximizes() -> None:
    minimizing, maximizing = create(), create("maximize")
    minimizing.optimize(segment, n_trials=40)
    maximizing.optimize(lambda trial: segment(trial, -1.0), n_trials=40)
    assert pruned(minimizing) == pruned(maximizing) != []
    assert segments(minimizing) == segments(maximizing)


@pytest.mark.parametrize(
    "arguments", [{"truncation": 0.0}, {"selection": "tournament"}, {"burn_in": 99}]
)
def test_nothing_is_pruned_that_would_not_be_truncated(arguments: dict[str, Any]) -> None:
    study = create(**arguments)
    study.optimize(segment, n_trials=40)
    assert not pruned(study)


def test_the_worst_is_pruned_once_it_is_old_enough() -> None:
    study = create(burn_in=1)
    generation(study)
    generation(study)
    assert [s.age for s in segments(study)[5:]] == [1] * 5
    assert open_trial(study, 2.0).should_prune()  # against the last generation: .1 … .4, 1
    young = create(burn_in=3)
    generation(young)
    generation(young)
    assert not open_trial(young, 2.0).should_prune()


def test_peers_count_at_the_same_step_of_this_generation_if_they_have_it() -> None:
    study = create(burn_in=1)
    generation(study)
    ahead = [open_trial(study, 5.0, 0.1) for _ in range(4)]
    late = open_trial(study, 2.0)
    assert not late.should_prune()  # at step 0 the others had 5
    late.report(2.0, 1)
    assert late.should_prune()  # at step 1 they had 0.1
    assert not any(trial.should_prune() for trial in ahead)


def test_peers_without_a_report_count_as_worse() -> None:
    study = create(burn_in=1)
    generation(study)
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    trial.report(9.0, 17)  # no other trial reports that step
    assert not trial.should_prune()


def test_not_more_are_pruned_than_are_truncated() -> None:
    study = create(burn_in=0)
    generation(study)
    running = [open_trial(study, value) for value in (7.0, 8.0, 9.0, 3.0, 4.0)]
    assert [trial.should_prune() for trial in running] == [False, False, True, False, False]
    study.tell(running[2], state=TrialState.PRUNED)
    assert not any(running[i].should_prune() for i in (0, 1, 3, 4))


def test_of_equal_members_none_is_pruned() -> None:
    study = create(burn_in=0)
    running = [open_trial(study, 1.0) for _ in range(5)]
    assert not any(trial.should_prune() for trial in running)


def test_explorers_are_not_pruned_but_count() -> None:
    study = create(burn_in=0)
    generation(study)
    members = [open_trial(study, value) for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert members[4].should_prune()
    explorers = [open_trial(study, value) for value in (0.6, 9.0)]
    assert [s.member for s in segments(study)[-2:]] == [None, None]
    assert not any(explorer.should_prune() for explorer in explorers)
    assert not members[4].should_prune()  # two of seven are truncated, and these two are worse


def test_a_late_worker_whose_place_was_filled_by_another_is_not_pruned() -> None:
    study = create(burn_in=0, population_size=2, truncation=0.5)
    for _ in range(2):
        finish(study, 0.1)
    late = open_trial(study, 9.0)
    assert late.should_prune()
    while not any(s.done for s in population_of(study).attempts(0, 1)):  # until it is overdue
        finish(study, 0.1)
    assert not late.should_prune()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_report_that_is_not_finite_is_pruned_however_young(value: float) -> None:
    study = create(burn_in=99, truncation=0.0)
    assert open_trial(study, value).should_prune()


def test_nothing_is_pruned_in_the_warmup() -> None:
    study = create(burn_in=0)
    study.pruner = TruncationPruner(n_warmup_steps=2)
    generation(study)
    trial = open_trial(study, 9.0, 9.0)
    assert not trial.should_prune()
    trial.report(9.0, 2)
    assert trial.should_prune()


def test_trials_before_their_first_report_and_of_other_samplers_are_not_judged() -> None:
    study = create(burn_in=0)
    generation(study)
    assert not open_trial(study).should_prune()
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    other = open_trial(study, 9.0)
    assert read_segment(other.number, other.storage.get_trial_system_attrs(other._trial_id)) is None
    assert not other.should_prune()


def test_a_fixed_parameter_changes_nothing() -> None:
    study = create(burn_in=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.PartialFixedSampler({"x": 0.1}, study.sampler)
    generation(study)
    assert open_trial(study, 9.0).should_prune()


@pytest.mark.parametrize("value", [-1, 0.5, True, None])
def test_a_wrong_warmup_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="n_warmup_steps must be an integer of at least 0, got"):
        TruncationPruner(n_warmup_steps=value)


def test_threads_and_pruned_members_leave_no_gap() -> None:
    study = create(population_size=8, burn_in=1)
    study.optimize(segment, n_trials=120, n_jobs=4)
    population = population_of(study)
    for one in population:
        if one.segment.parent is not None:
            assert population[one.segment.parent].complete
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED} and pruned(study)
