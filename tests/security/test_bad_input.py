"""Whatever a public function is given that it cannot use, it says which argument that was."""

from typing import Any

import optuna
import pytest

from optuna_hypergrad import GradientSampler, PopulationSampler, lineage
from optuna_hypergrad.samplers import ChainSummary
from samplers.populations import bowl
from security.bad_input import (
    EXPECTED,
    TABLE,
    TAKE_NOTHING,
    Case,
    cases,
    names,
    public_names,
)


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: case.id)
def test_an_argument_that_cannot_be_used_is_named(case: Case) -> None:
    with pytest.raises(EXPECTED) as caught:
        case.call()
    assert names(case, str(caught.value))


def test_every_public_name_is_in_the_table() -> None:
    in_table = {name.partition(".")[0] for name in TABLE}
    assert public_names() == in_table | TAKE_NOTHING


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
        study.optimize(bowl, n_trials=3)
        trials = study.get_trials()
        for trial in trials:
            for key in ("hg:claim", "hg:segment"):
                if key in trial.system_attrs:
                    trial.system_attrs[key]["of_a_newer_version"] = [1, {"x": None}]
            trial.system_attrs["hg:of_a_newer_version"] = True
        newer = optuna.create_study(study_name="s", sampler=sampler)
        newer.add_trials(trials)
        newer.optimize(bowl, n_trials=3)
        study.optimize(bowl, n_trials=3)
        assert [t.params for t in newer.trials] == [t.params for t in study.trials]
