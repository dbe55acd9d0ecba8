"""Workers that return late, after others took over, change no decision."""

from typing import Any

import optuna
import pytest
from kills_worker import bowl, new_sampler
from optuna.trial import TrialState

from samplers.populations import assert_no_gaps, places, population_of, segments

LATE = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def run(study: optuna.Study, n_trials: int) -> None:
    for _ in range(n_trials):
        trial = study.ask()
        study.tell(trial, bowl(trial))


def come_back(study: optuna.Study, slow: optuna.Trial, state: TrialState | None) -> None:
    """Tell a trial that others waited for, better than all of theirs if it is complete."""
    if state is not None:
        study.tell(slow, -1.0 if state == TrialState.COMPLETE else None, state)


def proposals_around(sampler: str, late: TrialState | None) -> list[dict[str, Any]]:
    """What is proposed before and after a slow worker comes back, if it does."""
    study = optuna.create_study(sampler=new_sampler(sampler))
    run(study, 2)
    slow = study.ask()
    bowl(slow)
    run(study, 14)
    come_back(study, slow, late)
    run(study, 20)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("sampler", ["gradient", "population"])
def test_a_late_result_changes_no_proposal(sampler: str, late: TrialState) -> None:
    assert proposals_around(sampler, late) == proposals_around(sampler, None)


@pytest.mark.parametrize("late", LATE)
def test_a_segment_that_ends_beside_its_replacement(late: TrialState) -> None:
    study = optuna.create_study(sampler=new_sampler("population"))
    slow = study.ask()
    bowl(slow)
    run(study, 8)
    assert places(study)[0] == places(study)[8] == (0, 0)
    come_back(study, slow, late)
    run(study, 20)
    assert_no_gaps(study)
    successor = segments(study)[places(study).index((0, 1))]
    expected = 0 if late == TrialState.COMPLETE else 8
    assert (successor.parent, successor.age) == (expected, 1)


def test_the_dead_do_not_add_up_to_ever_more_patience() -> None:
    study = optuna.create_study(sampler=new_sampler("population"))
    for _ in range(15):
        study.ask()  # never heard of again
        run(study, 3)
    run(study, 12)
    filled = {(s.segment.member, s.generation) for s in population_of(study) if s.complete}
    assert {place for place in places(study) if place[0] is not None} <= filled
    assert_no_gaps(study)
