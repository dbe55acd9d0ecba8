"""Old names of public functions and classes stay for one version, with a warning."""

from typing import Any

import optuna
import pytest

import optuna_hypergrad
from optuna_hypergrad import autodiff, lineage_schedules, members, samplers
from optuna_hypergrad.autodiff import updates
from samplers.populations import bowl, create


@pytest.mark.parametrize(
    "module, old, new",
    [
        (optuna_hypergrad, "recall", "results"),
        (members, "Member", "MemberHandle"),
        (samplers, "Ancestor", "SegmentRecord"),
        (samplers, "Mutated", "MutationRecord"),
        (autodiff, "ReplayError", "RecomputeError"),
        (updates, "Hyper", "Hparam"),
    ],
)
def test_old_names_are_the_new_ones(module: Any, old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=rf"{old} is now called {new}; the next version"):
        assert getattr(module, old) is getattr(module, new)
    assert not hasattr(module, "nothing")


def test_replay_gives_lineage_schedules() -> None:
    study: optuna.Study = create()
    study.optimize(bowl, n_trials=8)
    with pytest.warns(FutureWarning, match="replay is now called lineage_schedules"):
        assert optuna_hypergrad.replay(study, cuts=3) == lineage_schedules(study, cuts=3)
