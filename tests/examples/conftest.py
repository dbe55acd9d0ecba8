from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a made-up MNIST."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(5_500, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, size=5_500, dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", train_images=images, train_labels=labels)
    return tmp_path
