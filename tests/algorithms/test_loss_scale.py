"""Losses on the scale of the Gaussian process."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms.loss_scale import CEILING, LossScale
from optuna_hypergrad.algorithms.ranges import Array


def standardised(losses: Array) -> tuple[Array, Array]:
    """Losses and their derivatives, on their own scale."""
    scale = LossScale(losses)
    return scale.standardised(losses), scale.slopes(losses)


def test_slopes_are_derivatives_of_the_losses() -> None:
    losses, step = np.array([0.1, 0.25, 0.5, 0.3, 0.2]), 1e-6
    scale = LossScale(losses)
    values, moved = scale.standardised(losses), scale.standardised(losses + step)
    assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
    np.testing.assert_allclose(scale.slopes(losses), (moved - values) / step, rtol=1e-4)


def test_losses_have_values_and_values_losses() -> None:
    losses = np.array([0.1, 0.25, 0.5, 0.3, 0.2])
    scale = LossScale(losses)
    found = [scale.loss_at(value) for value in scale.standardised(losses)]
    np.testing.assert_allclose(found, losses)


def test_what_is_much_worse_is_equally_bad() -> None:
    losses = np.array([0.0, 1.0, 2.0, 1e3, 1e30, np.inf])
    values, slopes = standardised(losses)
    assert values[3] == values[4] == values[5] == values.max()
    assert np.isnan(slopes[3:]).all() and np.isfinite(slopes[:3]).all()


def test_the_order_of_losses_remains() -> None:
    losses = np.random.default_rng(0).lognormal(size=30)
    capped = np.minimum(losses, losses.min() + CEILING * (np.median(losses[:10]) - losses.min()))
    order = np.argsort(standardised(losses)[0], kind="stable")
    np.testing.assert_array_equal(order, np.argsort(capped, kind="stable"))


@pytest.mark.parametrize("losses", [[1e308, -1e308, 0.0], [5e-324, 0.0, 1e-323]], ids=str)
def test_the_largest_and_smallest_losses_are_numbers(losses: list[float]) -> None:
    values, slopes = standardised(np.array(losses))
    assert np.isfinite(values).all() and not np.isinf(slopes).any()


@pytest.mark.parametrize("losses", [[np.inf] * 3, [0.5], [0.5] * 4, [0.5, np.inf]])
def test_losses_that_tell_nothing_are_no_error(losses: list[float]) -> None:
    values, slopes = standardised(np.array(losses))
    assert np.isfinite(values).all() and len(slopes) == len(losses)
    assert not LossScale(np.array(losses)).failed.any()


GOOD = [0.057, 0.079, 0.14, 0.05]


@pytest.mark.parametrize(
    "failed",
    [[2.3, 2.31, 2.3, 4.6, 2.32, np.inf], [np.inf] * 6],
    ids=["losses", "divergence"],
)
def test_where_most_runs_fail_they_do_not_set_the_scale(failed: list[float]) -> None:
    """As where most learning rates of a range train nothing (LeNet on MNIST)."""
    losses = np.array([*GOOD, *failed, 0.044, 0.037, max(failed), max(failed)])
    scale = LossScale(losses)
    good = np.isin(np.arange(14), [0, 1, 2, 3, 10, 11])
    np.testing.assert_array_equal(scale.failed, ~good)
    values = scale.standardised(losses)
    assert values[good].mean() == pytest.approx(0) and values[good].std() == pytest.approx(1)
    assert values[1] - values[11] > 0.5
    assert np.ptp(values[4:10]) < 1e-9  # all failed ones are alike


def test_a_failure_or_two_do_not_change_the_scale() -> None:
    losses = np.array([0.5, 0.3, 0.2, 0.4, 0.25])
    scale = LossScale(np.append(losses, [2.3, 4.6]))
    assert not scale.failed.any()
    values = scale.standardised(losses)
    raw = np.log1p((losses - 0.2) / (0.4 - 0.2))  # by the median of all
    expected = (raw - raw[0]) / (raw[1] - raw[0])
    np.testing.assert_allclose((values - values[0]) / (values[1] - values[0]), expected)


@pytest.mark.parametrize("bound", [4.6, 1e6])
def test_what_diverged_runs_count_as_does_not_set_the_scale(bound: float) -> None:
    losses = [0.5, 0.3, 0.2, 0.9, 0.25, 1.2]
    values, slopes = standardised(np.array([*losses, *[bound] * 6]))
    expected = standardised(np.array([*losses, *[np.inf] * 6]))
    np.testing.assert_allclose(values, expected[0])
    np.testing.assert_allclose(slopes, expected[1])


def test_few_good_runs_are_no_scale() -> None:
    assert not LossScale(np.array([0.05, 0.06, *[2.3] * 8])).failed.any()
    assert LossScale(np.array([0.05, 0.06, *[2.3] * 8, *[0.07, 2.3] * 3])).failed.sum() == 11


def test_where_half_fails_runs_in_between_did_not() -> None:
    """LeNet on MNIST, seed 2 of a search from zero."""
    first = [2.308, 2.303, 4.605, 4.605, 4.605, 0.095, 0.213, 0.215, 0.065, 0.069]
    losses = np.array([*first, 1.195, 0.105, 0.377, 0.279, 0.371, 0.053])
    assert LossScale(losses).failed.nonzero()[0].tolist() == [0, 1, 2, 3, 4]


def test_of_the_first_ten_one_may_be_in_between() -> None:
    """LeNet on MNIST, seed 4 of a search from zero."""
    first = [2.305, 4.605, 4.605, 4.605, 0.201, 2.304, 0.108, 0.984, 0.243, 0.115]
    assert LossScale(np.array(first)).failed.nonzero()[0].tolist() == [0, 1, 2, 3, 5]


def test_chance_is_a_failure_where_others_diverged() -> None:
    """LeNet on MNIST, seed 6 of a search from zero; what diverges counts as twice chance."""
    first = [2.303, 4.605, 4.605, 4.605, 0.12, 4.605, 4.605, 4.605, 0.15, 0.25]
    losses = np.array([*first, 4.605, 0.12, 0.32, 2.3, 0.11, 0.094])
    assert LossScale(losses).failed.nonzero()[0].tolist() == [0, 1, 2, 3, 5, 6, 7, 10, 13]


@pytest.mark.parametrize("best", [0.4, 0.1, 0.01, -5.0])
def test_better_runs_do_not_make_failures_forgotten(best: float) -> None:
    first = [0.45, 2.3, 2.3, 0.5, 2.3, 2.31, 0.42, 2.3, 0.55, 2.3]
    assert LossScale(np.array([*first, best])).failed.sum() == 6


def test_where_the_first_all_fail_the_others_count() -> None:
    losses = np.array([*[2.3, 2.31, 2.32, 2.3, 2.3] * 2, 0.3, 2.31, 0.2, 0.25, 2.3])
    assert LossScale(losses).failed.sum() == 12


@pytest.mark.parametrize("n_dimensions", [1, 2, 6, 20])
@pytest.mark.parametrize("closing_in", [1.0, 0.95])
def test_ordinary_losses_are_no_failures(n_dimensions: int, closing_in: float) -> None:
    """Also not where a search closes in on a minimum."""
    rng, n_failed = np.random.default_rng(0), 0
    radii = closing_in ** np.maximum(np.arange(50) - 10, 0)[:, None]
    for _ in range(100):
        points = radii * (rng.random((50, n_dimensions)) - 0.3)
        n_failed += any(LossScale((points[:n] ** 2).sum(axis=1)).failed.any() for n in (10, 25, 50))
    assert n_failed <= 2
