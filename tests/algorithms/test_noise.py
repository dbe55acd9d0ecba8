"""Noise of hypergradients against Monte Carlo and closed forms."""

from collections.abc import Callable

import numpy as np
import pytest

from optuna_hypergrad.algorithms.noise import (
    best_width,
    effective_steps,
    hypervariance,
    sharing_error,
    sign_fluctuation,
    signal_to_noise,
)


def autoregressive(rng: np.random.Generator, phi: float, runs: int, steps: int) -> np.ndarray:
    """Stationary noise of unit variance with the correlations φ^lag, shape (runs, steps)."""
    x = rng.normal(size=(runs, steps))
    for t in range(1, steps):
        x[:, t] = phi * x[:, t - 1] + np.sqrt(1 - phi**2) * x[:, t]
    return x


@pytest.mark.parametrize("width, correlation", [(1, 0.0), (5, 0.0), (8, 0.3), (20, 0.1)])
def test_sharing_error_is_what_sharing_costs(width: int, correlation: float) -> None:
    sigma, drift, runs = 1.5, 0.2, 40_000
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(runs, 1)), rng.normal(size=(runs, width))
    mean = drift * np.arange(width)
    h = mean + sigma * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own)
    error = ((h.mean(axis=1, keepdims=True) - mean) ** 2).mean()
    assert sharing_error(width, sigma**2, drift, correlation) == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize("variance, drift", [(1.0, 0.1), (36.0, 1.0), (4.0, 1e-3)])
def test_the_best_width_has_the_lowest_error(variance: float, drift: float) -> None:
    width = best_width(variance, drift)
    around = sharing_error(width * np.array([0.98, 1.0, 1.02]), variance, drift)
    assert np.argmin(around) == 1


def test_without_drift_sharing_never_hurts() -> None:
    assert best_width(1.0, 0.0) == np.inf


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_steps_of_autoregressive_noise(phi: float) -> None:
    runs = autoregressive(np.random.default_rng(1), phi, runs=50, steps=2_000)
    expected = 2_000 * (1 - phi) / (1 + phi)
    assert np.median([effective_steps(run) for run in runs]) == pytest.approx(expected, rel=0.1)


def test_effective_steps_lie_between_one_and_all() -> None:
    alternating = np.tile([1.0, -1.0], 50)
    assert effective_steps(alternating) == 100.0
    assert effective_steps(np.ones(7)) == 7.0
    assert 1.0 <= effective_steps(np.arange(100.0)) < 10.0


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_signal_to_noise_counts_standard_errors_of_the_mean(phi: float) -> None:
    runs = 0.5 + autoregressive(np.random.default_rng(2), phi, runs=300, steps=600)
    deviation = runs[:, :300].mean(axis=1).std()  # of a window's mean, over the runs
    ratios = np.array([signal_to_noise(run, windows=2) for run in runs])
    assert np.median(ratios, axis=0) == pytest.approx(0.5 / deviation, rel=0.15)


def test_windows_of_single_steps_have_no_ratio_and_constant_ones_no_noise() -> None:
    assert np.isnan(signal_to_noise([1.0, 2.0, 3.0], windows=3)).all()
    assert signal_to_noise([0.0, 0.0, 2.0, 2.0], windows=2).tolist() == [0.0, np.inf]


def test_windows_are_cut_like_those_of_a_schedule() -> None:
    from optuna_hypergrad import Schedule

    steps, windows = 23, 5
    index = [Schedule("lr", range(windows)).window(step, steps) for step in range(steps)]
    h = np.random.default_rng(3).normal(size=steps)
    parts = [h[np.equal(index, window)] for window in range(windows)]
    expected = [signal_to_noise(part)[0] for part in parts]
    assert signal_to_noise(h, windows).tolist() == expected


def test_hypervariance_and_sign_fluctuation_of_gaussian_hypergradients() -> None:
    from math import erf

    rng, ratio = np.random.default_rng(4), np.array([0.2, 1.0, 5.0])
    runs = -3.0 * (1 + ratio * rng.normal(size=(20_000, 3)))
    assert hypervariance(runs) == pytest.approx(ratio, rel=0.05)
    wrong = [(1 - erf(1 / (r * 2**0.5))) / 2 for r in ratio]
    assert sign_fluctuation(runs) == pytest.approx(np.array(wrong), abs=0.01)
    assert hypervariance([[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]).tolist() == [np.inf, 0.0, 0.0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: hypervariance([1.0, 2.0]), r"runs must have shape \(runs, n\) .* got \(2,\)"),
        (lambda: sign_fluctuation([[1.0]]), r"runs must have .* two runs, got \(1, 1\)"),
        (lambda: signal_to_noise([1.0, 2.0], windows=3), r"windows must lie in 1 … 2 .* got 3"),
        (lambda: signal_to_noise([1.0, 2.0], windows=0), "windows must lie in 1 … 2 .* got 0"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
