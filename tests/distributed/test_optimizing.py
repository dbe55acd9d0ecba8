"""A study whose trials are run by several ranks: one objective, one truth."""

from collections.abc import Iterator
from typing import Any

import optuna
import programs
import pytest
import torch
from launching import launch

from optuna_hypergrad.distributed import RankError, Ranks, optimize, trials


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision, as the programs have it."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return [rank["studies"] for rank in launch("peaceful", 2)]


def test_all_ranks_run_the_same_trials(found: list[dict[str, Any]]) -> None:
    first, second = (rank["seen"] for rank in found)
    assert first == second and [number for number, *_ in first] == [0, 1, 2, 4]
    for number, params, loss, _ in first:
        state, stored, value, attrs = found[0]["trials"][number]
        assert params == stored and attrs["hg:gradient"]["trial"] == number
        assert (state, value) == (("FAIL", None) if number == 1 else ("COMPLETE", loss))


def test_a_pruned_trial_is_pruned_on_all_ranks(found: list[dict[str, Any]]) -> None:
    assert [state for state, *_ in found[0]["trials"]] == [
        "COMPLETE",
        "FAIL",
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]


@pytest.mark.usefixtures("float64")
def test_the_study_is_that_of_one_process(found: list[dict[str, Any]]) -> None:
    study = programs.new_study()
    study.optimize(programs.objective, n_trials=5, catch=ValueError)
    for mine, there in zip(programs.trials_of(study), found[0]["trials"], strict=True):
        (state, params, value, attrs), (*same, other, other_attrs) = mine, there
        assert [state, params] == same
        assert value is other or value == pytest.approx(other, rel=1e-12)
        assert list(attrs) == list(other_attrs)
        assert attrs["hg:tangents"]["norms"] == pytest.approx(other_attrs["hg:tangents"]["norms"])
    seeds = [seed for *_, seed in programs.seen]
    assert seeds == [seed for *_, seed in found[0]["seen"]]


def test_an_error_on_another_rank_ends_the_study_for_all(found: list[dict[str, Any]]) -> None:
    first, second = found
    assert first["states"] == ["COMPLETE", "FAIL"]
    assert first["error"] == "RankError: rank 0 of 2: rank 1 raised ValueError: only here."
    assert second["error"].startswith("RankError: rank 1 of 2: rank 0 raised RankError")
    assert second["cause"] == "ValueError('only here')"  # with its traceback


def test_trials_say_the_same_on_all_ranks_whatever_is_suggested(
    found: list[dict[str, Any]],
) -> None:
    first, second = (rank["suggested"] for rank in found)
    assert first == second and len(first) == 3
    assert first[0][0][2] == 7 and first[0][0][4] is None  # enqueued


def test_a_rank_that_dies_between_two_trials_ends_the_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = Ranks(None)
    ranks.size = 2

    def lose(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        ranks.is_lost, ranks._failure = True, "lost another rank"

    monkeypatch.setattr(trials, "join", lambda: ranks)
    study = optuna.create_study()
    with pytest.raises(RankError, match="lost another rank"):
        optimize(study, lambda trial: 0.0, n_trials=5, catch=RankError, callbacks=[lose])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def test_one_rank_optimizes_as_the_study_does() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optimize(study, lambda trial: trial.suggest_float("x", 0, 1), 2, callbacks=[stop])
    assert isinstance(study, optuna.Study) and len(study.trials) == 1


def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    study.stop()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="study must be a study on rank 0, got None"):
        optimize(None, lambda trial: 0.0)
    with pytest.raises(ValueError, match="n_jobs must be 1 for ranks, got 2"):
        optimize(optuna.create_study(), lambda trial: 0.0, n_jobs=2)
