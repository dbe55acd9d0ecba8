"""How likely a run fails, where many do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.gaussian_process import Data, fit
from optuna_hypergrad.algorithms.ranges import Array

# Power of the probability of success in the acquisition, and deviations added to expected losses
# where one is recommended; see docs/arena.md.
CAUTION = 2.0


class Failures:
    """A Gaussian process of labels: 1 where a run failed, 0 where it did not.

    Args:
        x: Coordinates of the runs, shape (n, components).
        failed: Which runs failed, shape (n,); some did, and some did not.
        coordinates: Of the points.

    Reference:
        Gelbart, Snoek & Adams (2014), "Bayesian Optimization with Unknown Constraints", Section 3.

    Example:
        >>> coordinates = Coordinates((1,))
        >>> x = coordinates.of(np.array([[0.1], [0.3], [0.7], [0.9]]))
        >>> failures = Failures(x, np.array([False, False, True, True]), coordinates)
        >>> frequencies = failures.frequency(coordinates.of(np.array([[0.2], [0.8]])))
        >>> bool(frequencies[0] < 0.2 and frequencies[1] > 0.8)
        True
    """

    def __init__(self, x: Array, failed: NDArray[np.bool_], coordinates: Coordinates) -> None:
        labels = failed.astype(float)
        self._mean, self._deviation = float(labels.mean()), float(labels.std())
        without_slopes = x[:0], np.arange(0)
        data = Data(x, (labels - self._mean) / self._deviation, *without_slopes)
        own = coordinates
        self._process = fit(data, own.kinds, own.lengths, own.length_spreads)
        self._middle = (0.5 - self._mean) / self._deviation

    def frequency(self, x: Array) -> Array:
        """The expected label, within [0, 1], at points of shape (k, components)."""
        mean, _ = self._process.predict(x)
        return np.clip(self._mean + self._deviation * mean, 0.0, 1.0)

    def penalty(self, x: Array) -> Array:
        """``CAUTION`` times log P(label < 1/2) at points of shape (k, components)."""
        mean, deviation = self._process.predict(x)
        return CAUTION * np.asarray(log_ndtr((self._middle - mean) / self._spread(deviation)))

    def penalty_slopes(self, x: Array) -> tuple[float, Array]:
        """The same at one point, shape (components,), with its gradient."""
        mean, deviation, d_mean, d_deviation = self._process.predict_slopes(x)
        spread = float(self._spread(deviation))
        z = (self._middle - mean) / spread
        value = float(log_ndtr(z))
        ratio = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - value)  # φ/Φ
        d_z = -(d_mean + z * deviation / spread * d_deviation) / spread
        return CAUTION * value, CAUTION * ratio * d_z

    def _spread(self, deviation: Array | float) -> Array:
        return np.asarray(np.hypot(deviation, self._process.hyperparameters.noise))
