"""ConsensusPruner: it prunes replicates that can change nothing, and the search does not notice."""

import heapq
import math
import warnings
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from optuna_hypergrad import ConsensusPruner, GradientSampler, report_hypergradient
from optuna_hypergrad.pruners.consensus import _keeps_sign
from samplers.studies import claims, finish, points

pytestmark = pytest.mark.usefixtures("sign_descent")


def create(margin: float = 1.0, **arguments: Any) -> optuna.Study:
    sampler = GradientSampler(seed=0, **arguments)
    return optuna.create_study(sampler=sampler, pruner=ConsensusPruner(margin))


def ask(study: optuna.Study) -> optuna.Trial:
    """A running trial that has reported."""
    trial = study.ask()
    for name in ("x", "y"):
        trial.suggest_float(name, -1, 1)
    trial.report(1.0, step=0)
    return trial


def prune(study: optuna.Study, trial: optuna.Trial) -> None:
    assert trial.should_prune()
    study.tell(trial, state=TrialState.PRUNED)


def mark(study: optuna.Study, trial: optuna.Trial) -> Any:
    return study.get_trials(deepcopy=False)[trial.number].system_attrs.get("hg:superfluous")


def test_a_trial_that_runs_alone_goes_on() -> None:
    study = create()
    for _ in range(5):
        trial = ask(study)
        assert not trial.should_prune()
        finish(study, trial)


def test_a_replicate_of_a_decided_step_is_pruned_and_changes_nothing() -> None:
    study = create()
    first, late = ask(study), ask(study)
    assert not late.should_prune() and mark(study, late) is None
    finish(study, first)
    prune(study, late)
    assert mark(study, late) == {"trial": 1}
    following = ask(study)
    assert claims(study) == [(0, 0), (0, 0), (0, 1)]
    assert following.params == {"x": -0.1, "y": -0.1}  # had it diverged, it would start elsewhere
    finish(study, following)
    assert ask(study).params == {"x": -0.2, "y": -0.2}


def test_a_replicate_that_a_later_step_does_not_stand_on_is_pruned() -> None:
    study = create()
    first, late = ask(study), ask(study)
    finish(study, first)
    for _ in range(3):
        finish(study, ask(study))
    assert late.should_prune()


def test_two_of_three_that_agree_settle_a_step() -> None:
    study = create(n_replicates=3)
    trials = [ask(study) for _ in range(3)]
    finish(study, trials[0], gradient=0.3)
    assert not trials[2].should_prune()
    finish(study, trials[1], gradient=0.2)
    prune(study, trials[2])
    assert ask(study).params == {"x": -0.1, "y": -0.1}
    assert claims(study)[-1] == (0, 1)


def test_two_of_three_that_disagree_in_one_parameter_do_not() -> None:
    study = create(n_replicates=3)
    trials = [ask(study) for _ in range(3)]
    finish(study, trials[0], gradient=1.0)
    finish(study, trials[1], gradient=lambda name: -0.1 if name == "y" else 1.0)
    assert not trials[2].should_prune()
    finish(study, trials[2])
    assert claims(study)[-1] == (0, 0)


@pytest.mark.parametrize(("margin", "settled"), [(0.5, True), (1.5, True), (1.7, False)])
def test_the_margin_bounds_what_is_outstanding(margin: float, settled: bool) -> None:
    study = create(margin, n_replicates=3)
    trials = [ask(study) for _ in range(3)]
    finish(study, trials[0], gradient=0.3)
    finish(study, trials[1], gradient=0.2)
    assert trials[2].should_prune() == settled


def test_an_infinite_margin_prunes_only_what_is_decided() -> None:
    study = create(math.inf, n_replicates=3)
    trials = [ask(study) for _ in range(4)]
    for trial in trials[:3]:
        assert not trials[3].should_prune()
        finish(study, trial)
    assert trials[3].should_prune()


def test_half_of_the_replicates_may_yet_diverge() -> None:
    study = create(n_replicates=3)
    trials = [ask(study) for _ in range(3)]
    finish(study, trials[0])
    finish(study, trials[1], gradient=math.nan)
    assert not trials[2].should_prune()
    pair = create(0.1, n_replicates=2)
    trials = [ask(pair) for _ in range(2)]
    finish(pair, trials[0])
    assert not trials[1].should_prune()


def test_a_parameter_whose_hypergradients_are_all_zero_is_settled() -> None:
    study = create(n_replicates=3)
    trials = [ask(study) for _ in range(3)]
    for trial in trials[:2]:
        finish(study, trial, gradient=lambda name: 0.0 if name == "y" else 1.0)
    assert trials[2].should_prune()


def test_failures_decide_a_step_but_prune_nobody() -> None:
    study = create()
    late = ask(study)
    for _ in range(3):
        study.tell(ask(study), state=TrialState.FAIL)
    assert not late.should_prune()


def test_a_replicate_that_was_pruned_by_another_pruner_has_diverged() -> None:
    study = create()
    trial = ask(study)
    study.tell(trial, state=TrialState.PRUNED)
    assert ask(study).params != trial.params


def test_the_mark_of_a_failed_trial_does_not_count_for_its_retry() -> None:
    study = create()
    first, late = ask(study), ask(study)
    finish(study, first)
    assert late.should_prune()
    attrs = study.get_trials(deepcopy=False)[late.number].system_attrs
    study.tell(late, state=TrialState.FAIL)
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.PRUNED,
            system_attrs={**attrs, "failed_trial": late.number},
            params=late.params,
            distributions=late.distributions,
        )
    )
    with study.sampler.memory.reading(study) as table:
        assert [one.is_superfluous for one in table.chain(0).steps[0]] == [False] * 3


def test_enqueued_trials_are_not_pruned() -> None:
    study = create()
    first = ask(study)
    study.enqueue_trial({"x": 0.5})
    study.enqueue_trial(first.params)
    guesses = [ask(study), ask(study)]
    finish(study, first)
    assert not any(guess.should_prune() for guess in guesses)


def test_other_chains_are_not_looked_at() -> None:
    study = create(n_chains=2)
    one, other = ask(study), ask(study)
    finish(study, one)
    assert not other.should_prune()


def test_trials_of_other_samplers_and_before_their_first_report_are_not_judged() -> None:
    study = create()
    first, unreported = ask(study), study.ask()
    unreported.suggest_float("x", -1, 1)
    finish(study, first)
    assert not unreported.should_prune()
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    assert not ask(study).should_prune()


def test_fixed_parameters_change_nothing() -> None:
    study = create()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.PartialFixedSampler({"y": 0.5}, study.sampler)
    first, late = ask(study), ask(study)
    finish(study, first)
    assert late.should_prune()


def search(study: optuna.Study, budget: int) -> dict[tuple[int, int], Any]:
    """Spend a budget of training steps on three workers, of which one is four, one nine times as
    slow as the other; the points of the search by outer step."""
    workers = [(float(pace), pace, 0, ask(study)) for pace in (1, 4, 9)]
    for _ in range(budget):
        clock, pace, done, trial = heapq.heappop(workers)
        done += 1
        trial.report(1.0, done)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
        elif done == 5:
            slopes = {name: value - 0.3 for name, value in trial.params.items()}
            report_hypergradient(trial, slopes)
            study.tell(trial, sum(slope**2 for slope in slopes.values()))
        if trial.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            done, trial = 0, ask(study)
        heapq.heappush(workers, (clock + pace, pace, done, trial))
    return dict(zip(claims(study), points(study), strict=True))


@pytest.mark.parametrize(("n_replicates", "gain"), [(1, 1.0), (3, 1.3)])
def test_the_search_goes_the_same_way_and_further(n_replicates: int, gain: float) -> None:
    with_pruner, without = (create(n_replicates=n_replicates) for _ in range(2))
    without.pruner = optuna.pruners.NopPruner()
    path, other = (search(study, budget=200) for study in (with_pruner, without))
    shared = path.keys() & other.keys()
    assert len(shared) >= 5 and all(path[claim] == other[claim] for claim in shared)
    assert len(path) >= gain * len(other)


def test_threads_search_with_it() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": 2 * (x - 0.3)})
        for step in range(5):
            trial.report((x - 0.3) ** 2, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return (x - 0.3) ** 2

    study = create(n_replicates=3)
    study.optimize(objective, n_trials=80, n_jobs=4)
    assert study.best_value < 1e-2


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    st.lists(st.floats(-1, 1), min_size=1, max_size=6),
    st.floats(0.1, 3.0),
)
def test_a_sign_that_is_kept_is_that_of_the_mean_of_all(
    values: list[float], shares: list[float], margin: float
) -> None:
    rest = [share * margin * max(map(abs, values)) for share in shares]
    if _keeps_sign(values, len(rest), margin):
        assert math.copysign(1, math.fsum(values)) == math.copysign(1, math.fsum(values + rest))


@pytest.mark.parametrize("margin", [0, -1.0, math.nan, True, "1", None])
def test_a_margin_that_makes_no_sense_is_named(margin: Any) -> None:
    with pytest.raises(ValueError, match="margin must be positive, got"):
        ConsensusPruner(margin)
