"""Killed workers cost their trials and nothing else; and what is lost would be noticed."""

import json
from pathlib import Path

import optuna
import pytest
from kills_losses import losses
from kills_worker import new_sampler, objective
from optuna.artifacts import FileSystemArtifactStore

import databases
import kills
import scripts
import servers

NOTHING = {"trials": 0, "places": 0, "doubled": 0, "dangling": 0}


FEW = ("sqlite", "postgresql", "journal")  # in the default run; the command kills on all


@pytest.mark.parametrize("sampler", kills.SAMPLERS)
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow)
        for kind in databases.KINDS
    ],
)
def test_killed_workers_cost_their_trials_and_nothing_else(kind: str, sampler: str) -> None:
    with servers.fresh(kind) as address:
        found = kills.measure(address, sampler, kills=3, seed=0, n_trials=6)
    assert sum(found.get(moment, 0) for moment in (*kills.MOMENTS, kills.ANY_TIME)) == 3
    assert found.pop("trials") <= 3 - found.get("before ask", 0)
    assert {name: found.get(name, 0) for name in NOTHING} == NOTHING and not found["crashed"]


@pytest.mark.slow
def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    out = tmp_path / "kills.json"
    options = ["--kills", "2", "--storages", "journal", "--trials", "2", "--json", out]
    done = scripts.run(kills.__file__, *options)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[-5:] == ["trials", *kills.UNHARMED]
    assert [row.split()[-4:] for row in rows] == [["0"] * 4] * 3
    assert json.loads(out.read_text()).keys() == {"journal, gradient", "journal, population"}


def finished_study(folder: Path, sampler: str) -> tuple[optuna.Study, FileSystemArtifactStore]:
    store = FileSystemArtifactStore(folder)
    study = optuna.create_study(sampler=new_sampler(sampler))
    study.optimize(lambda trial: objective(trial, store, lambda moment: None), n_trials=12)
    return study, store


@pytest.mark.parametrize("sampler", kills.SAMPLERS)
def test_an_undisturbed_study_has_lost_nothing(tmp_path: Path, sampler: str) -> None:
    assert losses(*finished_study(tmp_path, sampler)) == NOTHING


@pytest.mark.parametrize("sampler", kills.SAMPLERS)
def test_a_trial_that_never_ends_is_counted_with_its_place(tmp_path: Path, sampler: str) -> None:
    study, store = finished_study(tmp_path, sampler)
    study.ask()
    assert losses(study, store) == {**NOTHING, "trials": 1, "places": 1}


def test_a_missing_checkpoint_is_dangling(tmp_path: Path) -> None:
    study, store = finished_study(tmp_path, "population")
    store.remove(study.trials[-1].system_attrs["hg:checkpoint"]["artifact"])
    assert losses(study, store) == {**NOTHING, "dangling": 1}


def test_a_history_that_differs_from_the_lineage_is_doubled(tmp_path: Path) -> None:
    study, store = finished_study(tmp_path, "population")
    attrs = study.trials[5].system_attrs["hg:segment"]
    study._storage._get_trial(5).system_attrs["hg:segment"] = {**attrs, "parent": 2}
    assert losses(study, store) == {**NOTHING, "doubled": 2}


def test_a_step_off_the_path_is_doubled(tmp_path: Path) -> None:
    study, store = finished_study(tmp_path, "gradient")
    study._storage._get_trial(11).params["x"] += 0.1  # no other is based on the last
    assert losses(study, store) == {**NOTHING, "doubled": 1}
