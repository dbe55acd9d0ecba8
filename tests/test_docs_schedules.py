"""What docs/schedules.md promises: its code runs, and trains with what it took away."""

import re
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from optuna_hypergrad import lineage, suggest_schedule

PAGE = (Path(__file__).parents[1] / "docs" / "schedules.md").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's blocks define, run from first to last."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(code, names)  # the blocks are this repository's own text
    return names


def test_the_best_schedules_are_those_of_the_best_trial(page: dict[str, Any]) -> None:
    best, study = page["best"], page["study"]
    params = FixedTrial(study.best_params)
    assert best["lr"] == suggest_schedule(params, "lr", 0.0, 1.0, windows=4)
    assert [*best] == ["lr", "momentum"]


def test_the_longer_training_with_them_learns(page: dict[str, Any]) -> None:
    (group,) = page["optimizer"].param_groups
    assert group["lr"] == page["best"]["lr"].values[-1]
    assert group["momentum"] == page["best"]["momentum"].values[0]
    validation = page["x"][192:], page["y"][192:]
    assert page["loss_fn"](page["model"], validation) < page["study"].best_value


def test_the_replay_has_a_window_a_segment(page: dict[str, Any]) -> None:
    path = lineage(page["population"])
    lived = [ancestor.params["lr"] for ancestor in path]
    assert list(page["lived"]["lr"].values) == lived and len(lived) > 1
