from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def mnist(tmp_path: Path) -> Callable[..., Path]:
    """Makes up an MNIST with some images of each part; returns its folder."""

    def write(**counts: int) -> Path:
        rng, arrays = np.random.default_rng(0), {}
        for part, count in counts.items():
            arrays[f"{part}_images"] = rng.integers(0, 256, size=(count, 28, 28), dtype=np.uint8)
            arrays[f"{part}_labels"] = rng.integers(0, 10, size=count, dtype=np.uint8)
        np.savez(tmp_path / "mnist.npz", **arrays)
        return tmp_path

    return write


@pytest.fixture
def data(mnist: Callable[..., Path]) -> Path:
    """A folder with a made-up MNIST."""
    return mnist(train=5_500)
