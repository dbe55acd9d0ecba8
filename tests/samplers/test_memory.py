"""What samplers remember of a study is what a new reader of its trials finds."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad import GradientSampler, PopulationSampler, lineage
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.segments import read_segment
from optuna_hypergrad.samplers import ChainSummary
from samplers import populations, studies

pytestmark = pytest.mark.usefixtures("sign_descent")


def random_history(study: optuna.Study, seed: int, n_events: int) -> None:
    """Four workers that ask, finish, fail, prune and vanish in any order."""
    rng = np.random.default_rng(seed)
    running: list[optuna.Trial] = []
    for _ in range(n_events):
        if len(running) < 4 and rng.random() < 0.6:
            running.append(studies.ask(study))
        elif running:
            trial, fate = running.pop(int(rng.integers(len(running)))), rng.random()
            if fate < 0.1:
                study.tell(trial, state=TrialState.FAIL)
            elif fate < 0.2:
                study.tell(trial, state=TrialState.PRUNED)
            elif fate < 0.9:
                studies.finish(study, trial, rng.normal(), gradient=lambda name: rng.normal())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "sampler",
    [
        GradientSampler(seed=0, n_chains=2, n_replicates=2, stop_when_converged=False),
        PopulationSampler(seed=0, population_size=3),
    ],
    ids=["gradient", "population"],
)
def test_a_sampler_that_remembers_decides_like_one_that_does_not(
    sampler: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = copy.deepcopy(sampler)
    study = optuna.create_study(study_name="study", sampler=sampler)
    random_history(study, seed, 120)
    forgetful = optuna.create_study(study_name="study", sampler=copy.deepcopy(sampler))
    before_trial = forgetful.sampler.before_trial

    def forget(study: optuna.Study, trial: FrozenTrial) -> None:
        forgetful.sampler.memory = copy.deepcopy(sampler.memory)  # which knows nothing
        before_trial(study, trial)

    monkeypatch.setattr(forgetful.sampler, "before_trial", forget)
    random_history(forgetful, seed, 120)
    read = read_claim if isinstance(sampler, GradientSampler) else read_segment
    remembered, fresh = study.get_trials(deepcopy=False), forgetful.get_trials(deepcopy=False)
    assert len(remembered) == len(fresh) > 40
    for one, other in zip(remembered, fresh, strict=True):
        assert read(one.number, one.system_attrs) == read(other.number, other.system_attrs)
        assert one.params == other.params


@pytest.mark.parametrize("torn", ["still running", "not there yet"])
@pytest.mark.parametrize("kind", ["gradient", "population"])
def test_a_decision_read_before_its_basis_counts_from_the_next_reading(
    kind: str, torn: str
) -> None:
    """As from databases, which read trials first and attributes later."""
    study = studies.create() if kind == "gradient" else populations.create(population_size=1)
    slow, fast = studies.ask(study), studies.ask(study)
    running = study.get_trials()[1]
    studies.finish(study, fast)
    key, later = {
        "gradient": ("hg:claim", {"step": 1, "used": [1]}),
        "population": ("hg:segment", {"generation": 1, "parent": 1}),
    }[kind]
    decision = study.get_trials()[0].system_attrs[key]
    study._storage.set_trial_system_attr(slow._trial_id, key, {**decision, **later})
    whole = study.get_trials(deepcopy=False)
    reader, fresh = (study.sampler.memory.new(study) for _ in range(2))
    reader.read([whole[0], running] if torn == "still running" else [whole[0]])
    assert _decisions(reader)[1] == (1 if torn == "still running" else 0)
    for one in (reader, fresh):
        one.read(whole)
    assert _decisions(reader) == _decisions(fresh)
    assert _decisions(fresh)[1] == 1


def _decisions(reader: Any) -> Any:
    """Finished trials that decide, how many run, and where that leads."""
    if hasattr(reader, "chain"):
        chain = reader.chain(0)
        n_running = sum(not one.trial.state.is_finished() for one in chain.next_trials)
        return [one.trial.number for one in chain.used], n_running, chain.search.point()
    return [one.number for one in reader], len(reader.running), reader.undecided


def test_deleted_trials_are_noticed() -> None:
    study = studies.create()
    for _ in range(3):
        studies.ask(study)
    reader = study.sampler.memory.new(study)
    with pytest.raises(StoredDataError, match="2 trials end with number 2; some were deleted"):
        reader.read(study.get_trials()[1:])


def test_a_study_created_anew_under_an_old_id_is_another_study(tmp_path: Path) -> None:
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path}/study.db")
    study = studies.create(storage=storage, study_name="study")
    study.optimize(studies.quadratic, n_trials=4)
    optuna.delete_study(study_name="study", storage=storage)
    anew = optuna.create_study(
        study_name="study", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    anew.optimize(studies.quadratic, n_trials=6)
    assert anew._study_id == study._study_id
    anew.sampler = study.sampler
    anew.optimize(studies.quadratic, n_trials=1)
    claim = read_claim(6, anew.trials[6].system_attrs)
    assert claim is not None and (claim.step, claim.used) == (0, ())


def test_a_trial_of_another_process_is_continued(tmp_path: Path) -> None:
    """As where one process asks and another suggests, which looked at the study in between."""
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path}/study.db")
    one, other = (
        optuna.create_study(
            study_name="study", storage=storage, sampler=sampler, load_if_exists=True
        )
        for sampler in (GradientSampler(seed=0), GradientSampler(seed=0))
    )
    one.optimize(studies.quadratic, n_trials=3)
    running = studies.ask(one)
    began = storage.create_new_trial(one._study_id)  # by a process that is slow to decide
    other.sampler.chains(other)
    studies.finish(one, running, gradient=-1.0)
    begun_elsewhere = optuna.trial.Trial(one, began)
    assert begun_elsewhere.suggest_float("x", -1, 1) == pytest.approx(
        optuna.trial.Trial(other, began).relative_params["x"]
    )


@pytest.mark.parametrize("kind", ["gradient", "population"])
def test_a_running_trial_that_says_it_comes_after_more_than_there_are_is_set_aside(
    kind: str,
) -> None:
    study = studies.create() if kind == "gradient" else populations.create()
    trial = studies.ask(study)
    key = {"gradient": "hg:claim", "population": "hg:segment"}[kind]
    place = {"gradient": "step", "population": "generation"}[kind]
    decision = study.get_trials()[0].system_attrs[key]
    absurd = {**decision, place: 500_000}
    study._storage.set_trial_system_attr(trial._trial_id, key, absurd)
    reader = study.sampler.memory.new(study)
    reader.read(study.get_trials(deepcopy=False))
    assert _decisions(reader)[1] == 0 and reader.n_open == 1


@pytest.mark.parametrize("sampler", [GradientSampler(seed=0), PopulationSampler(seed=0)], ids=type)
class TestStudiesOfOtherKinds:
    def test_a_study_without_trials(self, sampler: Any) -> None:
        study = optuna.create_study(sampler=sampler)
        if isinstance(sampler, GradientSampler):
            (chain,) = sampler.chains(study)
            assert chain == ChainSummary(0, 0, None, None, False, {})
        with pytest.raises(ValueError, match="no segment of a population has been completed"):
            lineage(study)

    def test_a_study_with_several_objectives(self, sampler: Any) -> None:
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        trial = study.ask()
        with pytest.raises(ValueError, match="multi-objective"):
            trial.suggest_float("x", 0, 1)

    def test_a_study_of_a_newer_version_that_stores_more(self, sampler: Any) -> None:
        study = optuna.create_study(study_name="s", sampler=sampler)
        study.optimize(populations.bowl, n_trials=3)
        trials = study.get_trials()
        for trial in trials:
            for key in ("hg:claim", "hg:segment"):
                if key in trial.system_attrs:
                    trial.system_attrs[key]["of_a_newer_version"] = [1, {"x": None}]
            trial.system_attrs["hg:of_a_newer_version"] = True
        newer = optuna.create_study(study_name="s", sampler=sampler)
        newer.add_trials(trials)
        newer.optimize(populations.bowl, n_trials=3)
        study.optimize(populations.bowl, n_trials=3)
        assert [t.params for t in newer.trials] == [t.params for t in study.trials]
