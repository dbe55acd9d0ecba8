"""DivergencePruner: what is a blow-up, and what is not."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_hypergrad import DivergencePruner, GradientSampler, watch
from optuna_hypergrad.reports import StoredDataError
from pruners.trials import is_pruned, reported


def tangents(norms: dict[str, float | str]) -> dict[str, object]:
    return {"hg__tangents": {"trial": 0, "norms": norms}}


@pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf, 200.1, 1e30])
def test_a_loss_that_is_not_finite_or_explodes_is_pruned(last: float) -> None:
    assert is_pruned(DivergencePruner(), reported([2.0, 1.5, last]))


@pytest.mark.parametrize("values", [[], [2.0], [2.0, 199.9], [2.0, 1e6, 1.0], [0.0, 1e6], [1e9]])
def test_others_are_not(values: list[float]) -> None:
    assert not is_pruned(DivergencePruner(), reported(values))


def test_losses_may_begin_below_zero() -> None:
    assert not is_pruned(DivergencePruner(factor=10), reported([-2.0, 15.9]))
    assert is_pruned(DivergencePruner(factor=10), reported([-2.0, 16.1]))


def test_the_factor_counts_from_the_first_report_whichever_step_it_is_of() -> None:
    pruner = DivergencePruner(factor=3)
    assert not is_pruned(pruner, reported({20: 1.0, 40: 2.9}))
    assert is_pruned(pruner, reported({40: 3.1, 20: 1.0}))


def test_in_warmup_only_what_is_not_finite_is_pruned() -> None:
    pruner = DivergencePruner(factor=10, n_warmup_steps=3)
    assert not is_pruned(pruner, reported([1.0, 50.0, 99.0]))
    assert not is_pruned(pruner, reported([1.0, 50.0, 1.0, 499.0]))  # the start is the largest
    assert is_pruned(pruner, reported([1.0, 50.0, 1.0, 501.0]))
    assert is_pruned(pruner, reported([1.0, math.nan]))


def test_tangents_may_grow_with_the_steps_but_not_explode() -> None:
    pruner = DivergencePruner()
    assert not is_pruned(pruner, reported([1.0], **tangents({"0": 0.1, "99": 9_999.0})))
    assert is_pruned(pruner, reported([1.0], **tangents({"0": 0.1, "99": 10_001.0})))
    assert is_pruned(pruner, reported([1.0], **tangents({"0": 0.1, "99": "inf"})))
    assert is_pruned(pruner, reported([1.0], **tangents({"0": "nan"})))
    lenient = DivergencePruner(tangent_factor=math.inf, n_warmup_steps=200)
    assert not is_pruned(lenient, reported([1.0], **tangents({"0": 0.1, "99": 1e30})))


def test_tangents_of_a_failed_trial_do_not_count_for_its_retry() -> None:
    copied = {"hg__tangents": {"trial": 7, "norms": {"0": "nan"}}}
    assert not is_pruned(DivergencePruner(), reported([1.0], **copied))


def test_damaged_tangents_are_named() -> None:
    with pytest.raises(StoredDataError, match="trial 0: hg:tangents is damaged"):
        is_pruned(DivergencePruner(), reported([1.0], **tangents({"first": 1.0})))


@given(st.lists(st.floats(0.5, 1.5), min_size=1), st.floats(1e-3, 1e3), st.booleans())
def test_the_scale_of_the_loss_does_not_matter(
    losses: list[float], scale: float, last_explodes: bool
) -> None:
    losses = [loss * scale for loss in losses] + [500 * scale] * last_explodes
    assert is_pruned(DivergencePruner(), reported(losses)) == last_explodes


@pytest.mark.parametrize("argument", ["factor", "tangent_factor"])
@pytest.mark.parametrize("value", [1, 0.5, -2, math.nan, True, "10", None])
def test_factors_that_make_no_sense_are_named(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be a number above 1, got"):
        DivergencePruner(**{argument: value})


@pytest.mark.parametrize("value", [-1, 1.5, True, None])
def test_a_warmup_that_makes_no_sense_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="n_warmup_steps must be an integer of at least 0"):
        DivergencePruner(n_warmup_steps=value)  # type: ignore[arg-type]


def climb(trial: optuna.Trial) -> float:
    """Descend w² by steps that are too long for it."""
    lr, w, on_step = trial.suggest_float("lr", 2.0, 3.0), 1.0, watch(trial, every=1)
    for step in range(50):
        on_step(step, w**2)
        w -= lr * 2 * w
    return w**2


def test_it_needs_no_other_trials_and_no_sampler_of_ours() -> None:
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=DivergencePruner()
    )
    study.optimize(climb, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["PRUNED"] * 3
    assert max(trial.last_step for trial in study.trials) < 5


def test_to_the_gradient_sampler_a_pruned_trial_has_diverged() -> None:
    study = optuna.create_study(
        sampler=GradientSampler(seed=0, start={"lr": 2.5}), pruner=DivergencePruner()
    )
    study.optimize(climb, n_trials=2)
    first, second = study.trials
    assert first.params["lr"] == 2.5 != second.params["lr"]  # the search begins elsewhere
