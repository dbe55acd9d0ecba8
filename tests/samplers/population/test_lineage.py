"""Finished segments, their lineage, and the mutation of clones."""

import math
from typing import Any

import numpy as np
import optuna
import pytest

from optuna_hypergrad import lineage, report_hypergradient, students
from optuna_hypergrad.algorithms import mutation
from optuna_hypergrad.reports import StoredDataError, report_refined
from optuna_hypergrad.reports.segments import read_teacher
from optuna_hypergrad.samplers import SegmentRecord
from samplers.populations import bowl, create, run, segments, silent
from visualization.stored_populations import segment, study_of, trial

FIRST = {"lr": 0.01, "dropout": 0.5, "kind": "sgd"}
MUTATED = {"lr": 10**-2.4, "dropout": 0.6, "kind": 1.0}


def clones(study: optuna.Study) -> list[SegmentRecord]:
    return [one for one in students(study) if one.is_clone]


def plane(asked: optuna.Trial) -> float:
    x, y = asked.suggest_float("x", -1, 1), asked.suggest_float("y", 1e-4, 1, log=True)
    report_hypergradient(asked, {"x": 2 * (x - 0.3), "y": 1.0})
    return (x - 0.3) ** 2 + y


def test_students_lists_all_finished_segments_by_number() -> None:
    study = create()
    study.optimize(bowl, n_trials=30)
    study.ask()
    found = students(study)
    assert [one.trial for one in found] == list(range(30))
    by_number = {one.trial: one for one in found}
    assert all(one == by_number[one.trial] for one in lineage(study))
    for one in found:
        parent = None if one.parent is None else by_number[one.parent]
        assert (parent is None) == (one.generation == 0)
        assert bool(one.mutations) <= one.is_clone


def test_mutations_are_read_from_the_stored_segment() -> None:
    origins = {"lr": "perturbed", "dropout": "teacher", "kind": "resampled"}
    more: dict[str, Any] = {"values": MUTATED, "mutation": origins, "before": {"lr": 0.5}}
    more |= {"queried": {"dropout": 0.5}, "resampled": ("kind",)}
    first = trial(segment(0, 0, 0), 1.0, FIRST)
    params = {"lr": 10**-2.4, "dropout": 0.6, "kind": "adam"}
    clone = trial(segment(1, 1, 1, parent=0, **more), 0.5, params)
    found = students(study_of([first, clone]))[1].mutations
    assert {name: one.origin for name, one in found.items()} == origins
    assert (found["lr"].before, found["lr"].factor) == pytest.approx((0.5, 0.8))
    assert found["dropout"].factor == pytest.approx(1.2)
    assert math.isnan(found["kind"].factor)


def test_clones_of_an_older_version_show_what_it_stored() -> None:
    """Of the teacher and resampling; it stored nothing of perturbations and steps."""
    more: dict[str, Any] = {"values": MUTATED, "queried": {"dropout": 0.5}, "resampled": ("kind",)}
    first = trial(segment(0, 0, 0), 1.0, FIRST)
    params = {"lr": 10**-2.4, "dropout": 0.6, "kind": "adam"}
    clone = trial(segment(1, 1, 1, parent=0, **more), 0.5, params)
    for name in ("refinement", "mutation", "before"):
        del clone.system_attrs["hg:segment"][name]
    found = students(study_of([first, clone]))[1].mutations
    assert {name: one.origin for name, one in found.items()} == {
        "dropout": "teacher",
        "kind": "resampled",
    }
    assert found["dropout"].factor == pytest.approx(1.2)


def test_a_mutation_starts_from_what_the_parent_refined() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        report_refined(trial, {"x": 0.9 * x})
        return float(trial.number)

    study = create(mutation="perturb", resample_probability=0.0, burn_in=0)
    study.optimize(objective, n_trials=20)
    assert clones(study)
    for clone in clones(study):
        assert clone.parent is not None
        change = clone.mutations["x"]
        assert change.before == pytest.approx(0.9 * study.trials[clone.parent].params["x"])
        assert change.after == clone.params["x"] and not change.has_step


def test_a_step_is_recorded_where_there_was_one() -> None:
    """Not where the hypergradient was NaN, and not of what the parent refined itself."""

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_float(name, 0, 1) for name in ("x", "y", "z")}
        report_hypergradient(trial, {"x": 1.0, "y": math.nan, "z": 1.0})
        report_refined(trial, {"z": 0.5 * params["z"]})
        return float(trial.number)

    study = create(mutation="perturb", resample_probability=0.0, burn_in=0)
    study.optimize(objective, n_trials=20)
    steps = [{n: m.has_step for n, m in clone.mutations.items()} for clone in clones(study)]
    assert steps and all(
        one == {"x": True, "y": False, "z": False} for one in steps if len(one) > 2
    )
    continued = [s for s in segments(study) if s.age > 0]
    assert continued
    assert all(s.refinement == {"x": "step", "z": "refined"} for s in continued)
    assert all(not s.mutation and not s.before for s in continued)


@pytest.mark.parametrize("refine", [True, False])
def test_perturbations_are_recorded_with_and_without_refinement(refine: bool) -> None:
    study = create(mutation="perturb", resample_probability=0.0, refine=refine, burn_in=0)
    study.optimize(plane, n_trials=80)
    found = [one for clone in clones(study) for one in clone.mutations.values()]
    assert {one.origin for one in found} == {"perturbed"}
    inside = [one.factor for one in found if 0 < one.after < 1]
    assert len(inside) > 10
    np.testing.assert_allclose(np.abs(np.array(inside) - 1), 0.2, atol=1e-9)


def test_the_factors_of_the_teacher_are_its_weights() -> None:
    study = create(mutation="teacher", burn_in=0, resample_probability=0.0)
    study.optimize(plane, n_trials=120)
    trials, seen = study.get_trials(deepcopy=False), 0
    for clone in clones(study):
        taught = read_teacher(clone.trial, trials[clone.trial].system_attrs)
        assert taught is not None
        assert {one.origin for one in clone.mutations.values()} == {"teacher"}
        asked = [clone.mutations[name].before for name in taught.names]
        for name, weight in zip(
            taught.names, mutation.weights(taught.teacher, np.array(asked)), strict=True
        ):
            one = clone.mutations[name]
            if 0 < one.after < 1:
                seen += 1
                assert one.factor == pytest.approx(weight, abs=1e-4)
    assert seen > 20


def test_one_more_step_of_descent_is_recorded_as_such() -> None:
    study = create(burn_in=0, mutation="hypergradient")
    study.optimize(bowl, n_trials=60)
    found = [clone.mutations["x"] for clone in clones(study) if clone.mutations]
    assert found and {one.origin for one in found} == {"gradient"}


def test_without_mutation_nothing_is_recorded() -> None:
    study = create(burn_in=0, mutation=None)
    study.optimize(bowl, n_trials=60)
    assert clones(study)
    assert all(not clone.mutations for clone in clones(study))


def test_failed_segments_have_no_value() -> None:
    study = create()
    run(study)
    run(study, None, optuna.trial.TrialState.FAIL)
    assert [one.value for one in students(study)] == [1.0, None]


def test_studies_of_other_samplers_have_no_segments() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(silent, n_trials=3)
    assert students(study) == []


def test_a_parent_of_a_later_generation_is_refused() -> None:
    first = trial(segment(0, 0, 3), 1.0, {"dropout": 0.9})
    after = trial(segment(1, 1, 1, parent=0), 0.5, {"dropout": 0.4})
    fill = [trial(segment(n, n, 0), 0.5, {"dropout": 0.4}) for n in (2, 3)]
    with pytest.raises(StoredDataError, match="of a generation before 1, got 3"):
        students(study_of([first, after, *fill]))


def test_lineage_leads_to_the_best_segment() -> None:
    study = create(burn_in=0)
    study.optimize(bowl, n_trials=60)
    path = lineage(study)
    assert path[-1].trial == study.best_trial.number
    assert path[0].generation == 0
    assert [a.generation for a in path] == list(range(len(path)))
    with pytest.raises(ValueError, match="trial: 99 is not a finished segment"):
        lineage(study, 99)


def test_a_study_without_segments_has_no_lineage() -> None:
    with pytest.raises(ValueError, match="study: no segment of a population has been completed"):
        lineage(create())
