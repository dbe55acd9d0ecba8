"""The jobs with hundreds of hyperparameters, in small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import scripts

pytestmark = pytest.mark.slow
MANY = Path(__file__).parents[2] / "examples" / "many"


@pytest.fixture
def data(mnist: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a made-up MNIST and texts."""
    mnist(train=6_200, test=200)
    rng = np.random.default_rng(0)
    for name in ("tinyshakespeare", "ptb.valid"):
        letters = rng.choice([*"abcdefgh \n"], size=520_000)
        (tmp_path / f"{name}.txt").write_text("".join(letters))
    return tmp_path


def run(job: str, data: Path, output: Path, *methods: str) -> dict[str, object]:
    budget = ["--seeds", 0, "--budget", 1, "--output", output, "--methods", *methods]
    done = scripts.run(MANY / f"{job}.py", "--data", data, *budget)
    assert done.returncode == 0, done.stderr
    assert "| ours | 1 | 1 |" in done.stdout
    return json.loads(output.read_text())


def test_weights_of_groups_and_random_search(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "cleaning.json"
    found = run("cleaning", data, output, "ours", "random")
    assert found["dimensions"] == 500
    assert {*found["cells"]} == {"ours/0", "random/0"}
    assert len(found["cells"]["ours/0"]["arrays"]["weight"]) == 500
    for method, budget in (("ours", 1), ("random", 10)):
        assert sum(found["cells"][f"{method}/0"]["costs"]) >= 0.99 * budget  # they are rounded
    assert {*found["references"]} == {"all groups", "without the bad groups"}
    done = scripts.run(MANY / "figure.py", "--results", tmp_path, "--output", tmp_path / "f.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.parametrize("job", ["mixture", "rates", "augmentation"])
def test_the_other_jobs_run(job: str, data: Path, tmp_path: Path) -> None:
    found = run(job, data, tmp_path / f"{job}.json", "ours")
    assert found["dimensions"] == {"mixture": 300, "rates": 105, "augmentation": 180}[job]
