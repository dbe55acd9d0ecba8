"""docs/schedules.md: its code runs, and trains with what it took away."""

from typing import Any

from optuna.trial import FixedTrial

from optuna_hypergrad import lineage, suggest_schedule


def check_the_best_schedules_are_those_of_the_best_trial(page: dict[str, Any]) -> None:
    best, study = page["best"], page["study"]
    params = FixedTrial(study.best_params)
    assert best["lr"] == suggest_schedule(params, "lr", 0.0, 1.0, windows=4)
    assert [*best] == ["lr", "momentum"]


def check_the_longer_training_with_them_learns(page: dict[str, Any]) -> None:
    (group,) = page["optimizer"].param_groups
    assert group["lr"] == page["best"]["lr"].values[-1]
    assert group["momentum"] == page["best"]["momentum"].values[0]
    validation = page["x"][192:], page["y"][192:]
    assert page["loss_fn"](page["model"], validation) < page["study"].best_value


def check_the_lineage_has_a_window_per_segment(page: dict[str, Any]) -> None:
    path = lineage(page["population"])
    values = [segment.params["lr"] for segment in path]
    assert list(page["schedules"]["lr"].values) == values and len(values) > 1
