"""The Gaussian process of losses and slopes: its derivatives, and what it makes of both."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from optuna_hypergrad.algorithms.gaussian_process import (
    Data,
    GaussianProcess,
    Hyperparameters,
    fit,
)
from optuna_hypergrad.algorithms.ranges import Array

D = 3
STEP = 1e-5  # of central differences
KNOWN = Hyperparameters(np.array([0.6, 0.9, 1.3]), 1.2, 0.1, 0.3, 0.7)


def wave(x: Array) -> Array:
    return np.asarray(np.sin(3 * x[:, 0]) + x[:, 1] ** 2 - 0.5 * x[:, 0] * x[:, 2])


def wave_slopes(x: Array) -> Array:
    columns = [3 * np.cos(3 * x[:, 0]) - 0.5 * x[:, 2], 2 * x[:, 1], -0.5 * x[:, 0]]
    return np.stack(columns, axis=1)


def observed(n: int = 8, m: int = 4, unknown: bool = True, seed: int = 0) -> Data:
    """Losses of n runs, and slopes of every other one, of which some components are unknown."""
    x = np.random.default_rng(seed).random((n, D))
    at = 2 * np.arange(m)
    slopes = wave_slopes(x[at])
    if unknown and m:
        slopes[0, 1] = slopes[-1, 0] = slopes[-1, 2] = np.nan
    return Data(x, wave(x), slopes, at)


def without(dim: int) -> Data:
    """Observations of which no slope by one coordinate is known."""
    data = observed()
    slopes = data.slopes.copy()
    slopes[:, dim] = np.nan
    return data._replace(slopes=slopes)


def central(f: Callable[[Array], float], at: Array) -> Array:
    steps = STEP * np.eye(len(at))
    return np.array([(f(at + step) - f(at - step)) / (2 * STEP) for step in steps])


def of_logarithms(theta: Array) -> Hyperparameters:
    return Hyperparameters(np.exp(theta[:D]), *np.exp(theta[D:]).tolist())


@pytest.mark.parametrize(
    "data",
    [observed(), observed(unknown=False), observed(m=0), observed(n=1, m=1), without(1)],
    ids=["unknown components", "all known", "no slopes", "one run", "never known"],
)
def test_the_loss_s_gradient_agrees_with_central_differences(data: Data) -> None:
    by = GaussianProcess(data, KNOWN).loss_gradient()
    theta = np.log([*KNOWN.lengths, *KNOWN[1:]])
    expected = central(lambda t: GaussianProcess(data, of_logarithms(t)).loss(), theta)
    np.testing.assert_allclose([*by.lengths, *by[1:]], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "data", [observed(m=0), observed(), without(2)], ids=["no slopes", "some", "never known"]
)
def test_slopes_of_the_prediction_agree_with_central_differences(data: Data) -> None:
    process = GaussianProcess(data, KNOWN)
    for point in np.random.default_rng(1).random((4, D)):
        mean, deviation, d_mean, d_deviation = process.predict_slopes(point)
        means, deviations = process.predict(point[None])
        assert (mean, deviation) == pytest.approx((means.item(), deviations.item()))
        of_mean = central(lambda x: process.predict(x[None])[0].item(), point)
        of_deviation = central(lambda x: process.predict(x[None])[1].item(), point)
        np.testing.assert_allclose(d_mean, of_mean, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(d_deviation, of_deviation, rtol=1e-6, atol=1e-8)


def test_without_noise_it_passes_through_losses_and_slopes() -> None:
    data = observed(unknown=False)
    process = GaussianProcess(data, Hyperparameters(np.full(D, 0.9), 1.5, 1e-4, 1e-4, 1e-6))
    mean, deviation = process.predict(data.x)
    np.testing.assert_allclose(mean, data.y, atol=1e-3)
    assert (deviation < 1e-2).all()
    for run, slopes in zip(data.at, data.slopes, strict=True):
        np.testing.assert_allclose(process.predict_slopes(data.x[run])[2], slopes, atol=1e-2)


def test_slopes_tell_what_a_few_losses_do_not() -> None:
    data, elsewhere = observed(), np.random.default_rng(2).random((50, D))
    blind = data._replace(slopes=np.empty((0, D)), at=np.empty(0, dtype=np.int64))
    errors = []
    for one in (blind, data):
        process = fit(one, range(D), np.ones(D), np.full(D, 0.75))
        errors.append(np.square(process.predict(elsewhere)[0] - wave(elsewhere)).mean())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("size", [1e4, 1e12])
def test_exploded_slopes_change_nothing(size: float) -> None:
    data, elsewhere = observed(), np.random.default_rng(2).random((20, D))
    exploded = Data(
        data.x,
        data.y,
        np.vstack([data.slopes, size * np.array([[1.0, -1.0, 1.0]])]),
        np.append(data.at, 1),
    )
    means, deviations = zip(
        *(GaussianProcess(one, KNOWN).predict(elsewhere) for one in (data, exploded)), strict=True
    )
    np.testing.assert_allclose(means[1], means[0], atol=0.01)
    np.testing.assert_allclose(deviations[1], deviations[0], atol=0.01)


def test_noisy_slopes_are_found_to_be_noise() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((30, D))
    wrong = 5 * rng.normal(size=(30, D))
    found = [
        fit(Data(x, wave(x), slopes, np.arange(30)), range(D), np.ones(D), np.full(D, 0.75))
        for slopes in (wave_slopes(x), wrong)
    ]
    exact, noisy = (process.hyperparameters for process in found)
    assert noisy.relative_noise > 3 * exact.relative_noise
    elsewhere = rng.random((50, D))
    error = np.square(found[1].predict(elsewhere)[0] - wave(elsewhere)).mean()
    assert error < 0.1 * wave(elsewhere).var()


def test_coordinates_of_one_kind_share_a_length_scale() -> None:
    data = observed()
    process = fit(data, (0, 1, 1), np.ones(2), np.full(2, 0.75))
    first, second, third = process.hyperparameters.lengths
    assert second == third != first


def test_the_predictive_density_is_that_of_each_loss_given_the_others() -> None:
    data, total = observed(m=0), 0.0
    for i in range(len(data.y)):
        others = data._replace(x=np.delete(data.x, i, 0), y=np.delete(data.y, i))
        mean, deviation = GaussianProcess(others, KNOWN).predict(data.x[i : i + 1])
        total += norm.logpdf(data.y[i], mean, np.hypot(deviation, KNOWN.noise)).item()
    assert GaussianProcess(data, KNOWN).predictive_density() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_many_slopes_that_agree_among_themselves_count_only_if_they_predict_losses(
    sign: float,
) -> None:
    x = np.random.default_rng(3).random((14, D))
    slopes, at = sign * wave_slopes(x), np.arange(14)
    found = fit(Data(x, wave(x), slopes, at), range(D), np.full(D, 0.6), np.full(D, 0.7))
    known = np.random.default_rng(4).random((50, D))
    error = np.abs(found.predict(known)[0] - wave(known)).mean()
    assert error < (0.05 if sign > 0 else 0.15)
    assert bool(len(found.data.at)) == (sign > 0)
