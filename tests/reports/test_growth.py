"""The growth of derivatives: how it is stored, read back and logged."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FixedTrial, FrozenTrial
from security.logs import logged

from optuna_hypergrad import report_hypergradient
from optuna_hypergrad.distributed import join
from optuna_hypergrad.distributed.trials import SharedTrial
from optuna_hypergrad.reports import StoredDataError, StoredGrowth, read_gradient, read_growth
from optuna_hypergrad.reports.growth import MAX_POINTS
from optuna_hypergrad.reports.objective import read_constraint_gradients
from reports.growing import Growth, Result, growing

INF, NAN = math.inf, math.nan
KEY = "hg:growth_to_end"


def asked() -> tuple[optuna.Study, optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    for i in range(5):
        trial.suggest_float(f"lr_{i}", 0.0, 1.0)
    return study, trial


def reported(growth: Growth | None) -> FrozenTrial:
    study, trial = asked()
    report_hypergradient(trial, Result({"lr_0": 0.5}, growth))
    return study.trials[0]


def test_a_result_is_reported_as_its_gradient_and_its_growth() -> None:
    growth = growing(5.0, trust={"lr_0": 0.25, "lr_1": 1.0}, damped=0.125)
    trial = reported(growth)
    assert read_gradient(trial) == {"lr_0": 0.5}
    assert read_growth(trial) == StoredGrowth(
        total=5.0,
        steps=50,
        to_end={i: pytest.approx(value) for i, value in enumerate(growth.to_end)},
        trust={"lr_0": 0.25, "lr_1": 1.0},
        dominated=31,
        damped=0.125,
    )
    assert trial.user_attrs == {"hg:gradient_norm": 0.5, "hg:growth": 5.0}


def test_what_is_displayed_has_six_digits() -> None:
    trial = reported(growing(10 / 3))
    assert trial.user_attrs["hg:growth"] == 3.33333
    assert trial.system_attrs[KEY]["to_end"]["0"] == 3.33333
    growth = read_growth(trial)
    assert growth is not None and growth.total == 10 / 3


@pytest.mark.parametrize("gradient", [{"lr_0": 0.5}, Result({"lr_0": 0.5}, None)], ids=type)
def test_without_growth_only_the_gradient_is_stored(gradient: Any) -> None:
    study, trial = asked()
    report_hypergradient(trial, gradient)
    (stored,) = study.trials
    assert stored.user_attrs == {"hg:gradient_norm": 0.5}
    assert KEY not in stored.system_attrs
    assert (read_gradient(stored), read_growth(stored)) == ({"lr_0": 0.5}, None)


def test_of_a_constraint_the_gradient_alone_is_stored() -> None:
    study, trial = asked()
    with logged() as lines:
        result = Result({"lr_0": 0.5}, growing(9.0, trust={"lr_0": 0.0}))
        report_hypergradient(trial, result, constraint="memory")
    (stored,) = study.trials
    assert read_constraint_gradients(stored) == {"memory": {"lr_0": 0.5}}
    assert (stored.user_attrs, read_growth(stored), lines) == ({}, None, [])


@pytest.mark.parametrize("steps", [1, 2, 99, 100, 101, 5000])
def test_at_most_a_hundred_steps_are_stored_the_first_and_the_last_included(steps: int) -> None:
    growth = read_growth(reported(growing(4.0, steps)))
    assert growth is not None and growth.steps == steps
    stored = [*growth.to_end]
    assert len(stored) == min(steps, MAX_POINTS) and stored == sorted(stored)
    assert (stored[0], stored[-1]) == (0, steps - 1)
    assert np.ptp(np.diff(stored)) <= 1 if steps > 1 else True


def test_a_run_of_no_steps_has_no_growth() -> None:
    growth = read_growth(reported(growing(0.0, 0)))
    assert growth == StoredGrowth(0.0, 0, {}, {}, 0, 0.0)


def test_numbers_that_are_not_finite_are_marked_in_strict_json() -> None:
    growth = Growth(np.array([INF, NAN, -INF, 1.0]), {"lr_0": 0.0}, 2, damped=NAN, total=INF)
    trial = reported(growth)
    json.dumps([trial.system_attrs, trial.user_attrs], allow_nan=False)
    assert "hg:growth" not in trial.user_attrs
    stored = read_growth(trial)
    assert stored is not None
    assert [*stored.to_end.values()] == pytest.approx([INF, NAN, -INF, 1.0], nan_ok=True)
    assert stored.total == INF and math.isnan(stored.damped)


def test_rounding_errors_of_fractions_are_cut_off() -> None:
    growth = growing(1.0, trust={"lr_0": 1 + 1e-9, "lr_1": -1e-9}, damped=np.float32(0.5))
    stored = read_growth(reported(growth))
    assert stored is not None
    assert (stored.trust, stored.damped) == ({"lr_0": 1.0, "lr_1": 0.0}, 0.5)


class TestLog:
    @pytest.mark.parametrize(
        ("total", "trust", "line"),
        [
            (
                9.02,
                {"lr_0": 0.3, "lr_1": 0.1, "lr_2": 0.2, "lr_3": 0.4, "lr_4": 0.5},
                "Trial 0: derivatives grow by a factor of 1e9 over the run; the hypergradients of "
                "lr_1, lr_2 (and 2 more) are dominated by growth, so their signs may be noise. See "
                "docs/chaos.md.",
            ),
            (
                2.5,
                {"lr_0": 0.0, "lr_1": 0.9},
                "Trial 0: derivatives grow by a factor of 1e2 over the run; the hypergradient of "
                "lr_0 is dominated by growth, so its sign may be noise. See docs/chaos.md.",
            ),
            (
                INF,
                {"lr_0": 0.0, "lr_1": 0.1},
                "Trial 0: derivatives grow beyond any float over the run; the hypergradients of "
                "lr_0, lr_1 are dominated by growth, so their signs may be noise. See "
                "docs/chaos.md.",
            ),
        ],
    )
    def test_a_warning_says_whose_signs_may_be_noise(
        self, total: float, trust: dict[str, float], line: str
    ) -> None:
        with logged() as lines:
            reported(Growth(np.array([3.0, 1.0]), trust, 1, total=total))
        assert lines == [line]

    def test_of_damped_derivatives_it_says_how_much_was_left_out(self) -> None:
        with logged() as lines:
            reported(growing(9.0, trust={"lr_0": 0.0}, damped=0.436))
        (line,) = lines
        assert line.endswith(
            "the hypergradient of lr_0 is dominated by growth, which was damped by leaving out 44% "
            "of the Hessian products. See docs/chaos.md."
        )

    @pytest.mark.parametrize(
        "growth",
        [growing(1.0, trust={"lr_0": 0.0}), growing(9.0, trust={"lr_0": 0.5}), growing(9.0)],
    )
    def test_nothing_is_logged_where_signs_can_be_trusted(self, growth: Growth) -> None:
        with logged() as lines:
            reported(growth)
        assert lines == []

    def test_of_ranks_that_share_a_trial_the_first_logs(self) -> None:
        class Other(FixedTrial):
            is_first = False

        with logged() as lines:
            for kind in (Other, FixedTrial):
                trial = kind({"x": 0.5})
                trial.suggest_float("x", 0, 1)
                report_hypergradient(trial, Result({"x": 1.0}, growing(9.0, trust={"x": 0.0})))
        assert len(lines) == 1
        assert SharedTrial(join(), asked()[1]).is_first


def with_(**changed: Any) -> SimpleNamespace:
    """A growth with something else in it; None leaves it out."""
    good = {**vars(growing(5.0, trust={"lr_0": 0.5})), **changed}
    return SimpleNamespace(**{name: value for name, value in good.items() if value is not None})


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        (3, "gradient.growth must be None or an object with total, to_end, trust, .*, got 3"),
        (with_(trust=None), "gradient.growth must be None or an object with"),
        (with_(total="x"), "gradient.growth.total must be a number, got 'x'"),
        (with_(to_end=[1.0]), r"to_end must be an array of floats, got \[1.0\]"),
        (with_(to_end=torch.ones(2)), "to_end must be an array of floats, got tensor"),
        (with_(to_end=np.ones((2, 2))), r"to_end must be .* of shape \(steps,\), got float64 of"),
        (with_(to_end=np.array(["a"])), "to_end must be an array of floats .*, got <U1 of shape"),
        (with_(trust=0.5), "trust must be a mapping of parameters to floats, got 0.5"),
        (with_(trust={3: 0.5}), "trust: each key must be a name, got 3"),
        (with_(trust={"lr_0": 1.5}), r"trust\['lr_0'\] must lie in \[0, 1\], got 1.5"),
        (with_(trust={"lr_0": NAN}), r"trust\['lr_0'\] must lie in \[0, 1\], got nan"),
        (with_(dominated=51), "dominated must be at most 50, got 51"),
        (with_(dominated=1.5), "dominated must be an integer of at least 0, got 1.5"),
        (with_(damped=-0.5), r"damped must lie in \[0, 1\], got -0.5"),
    ],
)
def test_a_growth_that_cannot_be_stored_is_refused_and_costs_nothing(
    growth: Any, message: str
) -> None:
    study, trial = asked()
    with pytest.raises(ValueError, match=message):
        report_hypergradient(trial, SimpleNamespace(gradient={"lr_0": 1.0}, growth=growth))
    assert study.trials[0].user_attrs == study.trials[0].system_attrs == {}
    report_hypergradient(trial, {"lr_0": 1.0})


@pytest.mark.parametrize(
    "gradient",
    [None, 3, [1.0], object(), SimpleNamespace(gradient={}), SimpleNamespace(growth=None), Result],
)
def test_neither_a_mapping_nor_a_result_is_refused(gradient: Any) -> None:
    _, trial = asked()
    expected = "gradient must map parameter names to floats, or be a result of autodiff.hypergrad"
    with pytest.raises(ValueError, match=expected):
        report_hypergradient(trial, gradient)


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ([1.0], "gradient must map parameter names to floats"),
        ({"z": 1.0}, "'z' is not a parameter of this trial"),
    ],
)
def test_the_gradient_of_a_result_is_checked_as_a_mapping_is(gradient: Any, message: str) -> None:
    study, trial = asked()
    with pytest.raises(ValueError, match=message):
        report_hypergradient(trial, Result(gradient, growing(5.0)))
    assert study.trials[0].user_attrs == study.trials[0].system_attrs == {}


def test_a_second_report_or_one_after_the_end_is_refused() -> None:
    study, trial = asked()
    result = Result({"lr_0": 0.5}, growing(5.0))
    report_hypergradient(trial, result)
    before = study.trials[0].system_attrs
    with pytest.raises(ValueError, match="trial 0 has already reported"):
        report_hypergradient(trial, Result({"lr_0": 0.5}, growing(1.0)))
    assert study.trials[0].system_attrs == before
    other = study.ask()
    other.suggest_float("lr_0", 0.0, 1.0)
    study.tell(other, 1.0)
    with pytest.raises(UpdateFinishedTrialError, match="trial 1 has finished"):
        report_hypergradient(other, result)


def test_a_copied_growth_of_another_trial_does_not_count() -> None:
    study, trial = asked()
    report_hypergradient(trial, Result({"lr_0": 0.5}, growing(5.0)))
    study.tell(trial, 1.0)
    copied = optuna.create_study()
    copied.add_trials([optuna.create_trial(value=0.0), study.trials[0]])
    assert read_growth(copied.trials[1]) is None


GOOD = {
    "trial": 0,
    "steps": 3,
    "dominated": 1,
    "run": {"total": 2.5, "damped": 0.0},
    "trust": {"lr_0": 0.5},
    "to_end": {"0": 2.5, "2": "inf"},
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": -1}, "steps must be an integer of at least 0, got -1"),
        ({"steps": 2}, "to_end must be of steps below 2, got 2"),
        ({"dominated": 4}, "dominated must be an integer of at most 3, got 4"),
        ({"run": 3}, "run must be an object with names, got 3"),
        ({"run": {"total": 1.0}}, "damped is missing"),
        ({"run": {"total": "big", "damped": 0.0}}, r"run\['total'\] must be a finite number"),
        ({"run": {"total": 1.0, "damped": 2.0}}, "damped must be a number from 0 to 1, got 2"),
        ({"run": {"total": 1.0, "damped": "inf"}}, "damped must be a number from 0 to 1, got inf"),
        ({"trust": {"lr_0": "nan"}}, r"trust\['lr_0'\] must be a finite number from 0 to 1"),
        ({"to_end": [2.5]}, "to_end must be an object with names"),
        ({"to_end": {"first": 2.5}}, "invalid literal for int"),
        ({"to_end": {"-1": 2.5}}, "to_end must be of steps below 3, got -1"),
        ({"to_end": {"0": None}}, r"to_end\['0'\] must be a finite number, got None"),
        ({"trial": True}, "trial must be an integer"),
    ],
)
def test_a_damaged_growth_gives_an_error_that_names_the_trial(
    changed: dict[str, Any], message: str
) -> None:
    study, trial = asked()
    trial.storage.set_trial_system_attr(trial._trial_id, KEY, GOOD)
    assert read_growth(study.trials[0]) == StoredGrowth(
        2.5, 3, {0: 2.5, 2: INF}, {"lr_0": 0.5}, 1, 0.0
    )
    trial.storage.set_trial_system_attr(trial._trial_id, KEY, {**GOOD, **changed})
    with pytest.raises(StoredDataError, match=f"trial 0: {KEY} is damaged: .*{message}"):
        read_growth(study.trials[0])
