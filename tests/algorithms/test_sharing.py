"""Cuts into shared windows against all cuts there are, and against what the theorem says."""

from collections.abc import Iterator

import numpy as np
import pytest

from optuna_hypergrad.algorithms.noise import best_width
from optuna_hypergrad.algorithms.sharing import shared_gradient, shared_windows


def all_cuts(h: np.ndarray) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every cut by halving of blocks of more than four, with its value by the criterion."""
    n = len(h)
    yield (n,), 0.0
    if n <= 4:
        return
    left, right = h[: n // 2], h[n // 2 :]
    errors = [((part[1:] - part[:-1]) @ (part[1:] - part[:-1])) / 2 for part in (left, right)]
    variance = sum(e / (len(p) - 1) / len(p) for e, p in zip(errors, (left, right), strict=True))
    t = (np.mean(left) - np.mean(right)) / np.sqrt(variance)
    aicc = [2 * k + 2 * k * (k + 1) / (n - k - 1) for k in (2, 3)]
    here = n * np.log(1 + t**2 / (n - 2)) - aicc[1] + aicc[0]
    for first, a in all_cuts(left):
        for second, b in all_cuts(right):
            yield first + second, here + a + b


@pytest.mark.parametrize("n", [1, 3, 4, 7, 16, 21])
def test_the_cut_is_the_best_of_all(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(10):
        h = np.cumsum(rng.normal(size=n)) + rng.normal(size=n)
        assert shared_windows(h) == max(all_cuts(h), key=lambda cut: cut[1])[0]


def drifting(rng: np.random.Generator, drift: float, n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Means that rise and fall by ``drift`` a window, and hypergradients with noise of 1."""
    mean = drift * (16 - np.abs(np.arange(n) % 64 - 32))
    return mean, mean + rng.normal(size=n)


@pytest.mark.parametrize("drift", [0.05, 0.15, 0.5])
def test_widths_follow_the_best_width_of_the_theorem(drift: float) -> None:
    rng = np.random.default_rng(0)
    cuts = [shared_windows(drifting(rng, drift)[1]) for _ in range(200)]
    typical = np.median([64 / len(widths) for widths in cuts])
    best = best_width(variance=1.0, drift=drift)
    assert best / 2 < typical < 2 * best


@pytest.mark.parametrize("drift", [0.05, 0.15, 0.5])
def test_sharing_by_the_rule_is_nearly_as_good_as_the_best_number_of_windows(drift: float) -> None:
    rng = np.random.default_rng(1)
    errors: dict[object, list[float]] = {}
    wrong: dict[object, list[float]] = {}
    for _ in range(200):
        mean, h = drifting(rng, drift)
        cuts = {windows: (64 // windows,) * windows for windows in (1, 2, 4, 8, 16, 32, 64)}
        for key, widths in {**cuts, "auto": shared_windows(h)}.items():
            shared = shared_gradient(h, widths)
            errors.setdefault(key, []).append(np.mean((shared - mean) ** 2))
            wrong.setdefault(key, []).append(np.mean(shared * mean < 0))
    error = {key: np.mean(values) for key, values in errors.items()}
    assert error.pop("auto") < 2 * min(error.values())
    assert np.mean(wrong["auto"]) < np.mean(wrong[64]) / 1.8


def test_noise_is_mostly_shared_by_few_windows() -> None:
    rng = np.random.default_rng(2)
    counts = [len(shared_windows(rng.normal(size=32))) for _ in range(300)]
    assert np.median(counts) <= 4  # of 16 at most


def test_noise_may_differ_along_the_run() -> None:
    rng = np.random.default_rng(3)
    early, late = 1e4 * rng.normal(size=16), np.repeat([1.0, -1.0], 8) * (1 + rng.normal() / 10)
    late += rng.normal(size=16) / 10
    edges = np.cumsum(shared_windows(np.concatenate([early, late])))
    assert {16, 24, 32} <= {*edges}  # the small but settled signs are not drowned


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_factor_changes_nothing(scale: float) -> None:
    h = np.random.default_rng(4).normal(size=32) + np.repeat([2.0, -2.0], 16)
    assert shared_windows(scale * h) == shared_windows(h)
    assert np.isfinite(shared_gradient(scale * h, shared_windows(h))).all()


def test_values_without_noise_are_cut_where_they_change() -> None:
    assert shared_windows(np.zeros(32)) == (32,)
    assert shared_windows(np.repeat([0.0, 3.0, 3.0, 3.0], 4)) == (4, 4, 8)


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, np.nan], [np.inf]])
def test_bad_gradients_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="gradient must be finite, of shape"):
        shared_windows(bad)  # type: ignore[arg-type]
