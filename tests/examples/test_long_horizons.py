"""The experiments on long horizons, in small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import scripts

PAPER = Path(__file__).parents[2] / "examples" / "paper"


@pytest.fixture
def data(mnist: Callable[..., Path]) -> Path:
    """A folder with a made-up MNIST that has few images."""
    return mnist(train=240, test=20)


@pytest.mark.slow
def test_all_methods_run_and_are_shown(data: Path, tmp_path: Path) -> None:
    storage, out = f"sqlite:///{tmp_path}/cells.db", tmp_path / "out" / "cells.json"
    methods = ("published", "hand-tuned", "greedy-online", "horizon-1", "unshared")
    few = ["--jobs", "mnist", "--seeds", 0, "--budget", 1, "--steps", 8]
    of_storage = ["--data", data, "--storage", storage]
    done = scripts.run(PAPER / "long_horizons.py", *of_storage, *few, "--methods", *methods)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(methods)

    shown = ["--json", out, "--figures", tmp_path]
    done = scripts.run(PAPER / "long_horizons_table.py", "--storage", storage, *shown)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if "|" in line}
    assert "not run" in rows["tpe"] and "not run" not in rows["published"]
    assert "98.7 ± 0.1" in rows["published"]
    cells = {cell["method"]: cell for cell in json.loads(out.read_text())["cells"]}
    assert "--methods published --seeds 0 --budget 1 --steps 8" in cells["published"]["command"]
    first = cells["published"]["trials"][0]["params"]
    assert len(first) == 9 and set(first.values()) == {0.0}
    assert len(cells["hand-tuned"]["trials"][0]["params"]) == 9
    assert cells["greedy-online"]["recommended"].keys() == {"lr", "momentum", "weight_decay"}
    assert len(cells["unshared"]["recommended"]) == 8 + 2
    for number in (1, 3, 4, 5):
        assert (tmp_path / f"long_horizons_{number}.png").stat().st_size > 5_000


def test_the_grid_follows_the_papers_schedules() -> None:
    code = f"""
import sys
sys.path[:0] = {[str(PAPER.parent / part) for part in ("arena", "benchmarks", "paper")]}
from long_horizons_methods import cosine_grid, multi_step_grid
grid = multi_step_grid()
rates = [round(grid[-1][f"lr_{{i}}"], 4) for i in range(7)]
print(len(grid), rates, grid[-1]["momentum"], grid[-1]["weight_decay"])
print([round(cosine_grid()[1][f"lr_{{i}}"], 4) for i in (0, 3, 6)])
"""
    done = scripts.run("-c", code)
    assert done.returncode == 0, done.stderr
    grid, cosine = done.stdout.splitlines()
    assert grid == "135 [0.6, 0.6, 0.24, 0.24, 0.096, 0.096, 0.0384] 0.99 0.001"
    assert cosine == "[0.0987, 0.05, 0.0013]"


def test_cropped_images_are_the_same_whenever_a_step_is_drawn() -> None:
    code = f"""
import sys
sys.path[:0] = {[str(PAPER.parent / part) for part in ("arena", "benchmarks", "paper")]}
import torch
from long_horizons_jobs import PADDING, CroppedImages
x = torch.arange(1.0, 1 + 6 * 3 * 8 * 8).reshape(6, 3, 8, 8)
data = CroppedImages.of((x, torch.arange(6)), (x[:1], x[:1]), (x[:1], x[:1]))
draw = data.batches(1, 4, 3)
images, labels = draw(1)
assert torch.equal(images, draw(1)[0])
assert sorted(torch.cat([draw(0)[1], labels]).tolist()) == list(range(6))  # an epoch
for image, label in zip(images, labels):
    padded = torch.nn.functional.pad(x[label], (PADDING,) * 4)
    crops = [padded[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    assert any(torch.equal(image, crop) or torch.equal(image, crop.flip(2)) for crop in crops)
"""
    assert scripts.run("-c", code).returncode == 0


def test_the_theorems_two_sides_agree_where_steps_are_independent_or_equal() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(PAPER)!r})
import numpy as np
from sharing import check
rng = np.random.default_rng(0)
independent = check(rng.normal(size=(200, 40)))
equal = check(np.repeat(rng.normal(size=(50, 1)), 40, axis=1))
close = np.allclose(independent.measured[:4], [1, 1 / 2, 1 / 5, 1 / 10], rtol=0.1)
print(close, independent.correlation < 0.05)
print(np.allclose(equal.measured, 1), round(equal.correlation, 2))
"""
    done = scripts.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True True", "True 1.0"]
