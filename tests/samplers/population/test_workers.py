"""Populations that several processes share, and workers that are killed."""

import random
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import scripts
from optuna_hypergrad.reports.segments import read_segment
from samplers.populations import assert_no_gaps, segments

WORKER = Path(__file__).with_name("worker.py")


def start(storage: str, folder: Path, n_trials: int) -> scripts.Running:
    return scripts.start(WORKER, storage, folder, n_trials)


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, Path]:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return f"sqlite:///{tmp_path}/study.db", folder


def study_in(storage: str) -> optuna.Study:
    return optuna.create_study(study_name="population", storage=storage, load_if_exists=True)


def assert_weights_follow_the_lineage(study: optuna.Study) -> None:
    """The history in a checkpoint is the lineage in the storage."""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state != TrialState.COMPLETE:
            continue
        path, segment = [trial.number], read_segment(trial.number, trial.system_attrs)
        while segment is not None and segment.parent is not None:
            path.insert(0, segment.parent)
            above = trials[segment.parent]
            segment = read_segment(above.number, above.system_attrs)
        assert trial.user_attrs["history"] == path
        assert trial.user_attrs["weight"] == len(path)


def test_four_processes_and_random_kills_leave_a_lineage_without_gaps(
    place: tuple[str, Path],
) -> None:
    storage, folder = place
    study, rng = study_in(storage), random.Random(0)
    workers = [start(storage, folder, 25) for _ in range(4)]
    for killed in range(3):  # while it works, not while it starts
        deadline = time.monotonic() + 60
        while len(study.trials) < 15 + 20 * killed and time.monotonic() < deadline:
            time.sleep(0.05)
        victim = rng.randrange(4)
        workers[victim].kill()
        workers[victim] = start(storage, folder, 15)
    assert [worker.wait().returncode for worker in workers] == [0] * 4
    assert len(study.get_trials(states=[TrialState.COMPLETE])) >= 60
    assert_no_gaps(study)
    assert_weights_follow_the_lineage(study)
    by_member = {segment.member for segment in segments(study)[-20:]}
    assert by_member >= {0, 1, 2, 3, 4}  # the population has not shrunk


def test_a_restart_in_mid_generation_continues_the_same_lineages(
    place: tuple[str, Path], tmp_path: Path
) -> None:
    storage, folder = place
    study = study_in(storage)
    for n_trials in (4, 7, 9):
        assert start(storage, folder, n_trials).wait().returncode == 0
    whole = study_in(f"sqlite:///{tmp_path}/whole.db")
    assert start(f"sqlite:///{tmp_path}/whole.db", folder, 20).wait().returncode == 0
    assert segments(study) == segments(whole)
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]
    assert_weights_follow_the_lineage(study)
