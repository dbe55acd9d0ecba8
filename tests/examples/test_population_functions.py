"""The benchmark of populations on functions, in small."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import scripts

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "examples" / "benchmarks" / "population_functions.py"


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    return importlib.import_module("population_problems")


def test_gradients_and_minima_are_right_and_no_minimum_is_in_the_centre(
    problems: ModuleType,
) -> None:
    assert len(problems.CHOSEN) == len(problems.SET_ASIDE) == 10
    for name, problem in {**problems.CHOSEN, **problems.SET_ASIDE}.items():
        span, n = problem.high - problem.low, len(problem.low)
        assert name.endswith(f", {n}")
        for seed in range(3):
            x = problem.low + np.random.default_rng(seed).random(n) * span
            gradient = problem.function(x)[1]
            h = 1e-6 * np.diag(span)
            numeric = [
                (problem.function(x + step)[0] - problem.function(x - step)[0]) / (2 * step.max())
                for step in h
            ]
            assert np.abs(numeric - gradient).max() < 1e-6 * max(np.abs(gradient).max(), 1), name
            near = problem.argmin + 0.01 * (x - problem.low - span / 2)
            assert problem.function(near)[0] > problem.minimum - 1e-6, name
        fraction = (problem.argmin - problem.low) / span
        assert np.abs(fraction - 0.5).max() > 0.05 and np.abs(problem.argmin).max() > 0.1, name


def test_noise_depends_on_the_point_alone(problems: ModuleType) -> None:
    noisy = problems.CHOSEN["bowl, noisy, 8"]
    x = noisy.low + 0.3
    found = noisy.function(x)
    assert np.array_equal(noisy.gradient(x, found), noisy.gradient(x, found))
    assert 0.2 < np.linalg.norm(noisy.gradient(x, found) - found[1]) / np.linalg.norm(found[1]) < 3


@pytest.mark.slow
def test_it_compares_the_default_with_ablations(tmp_path: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "out.json"
    page.write_text("<!-- chosen -->\n<!-- /chosen -->\n<!-- aside -->\n<!-- /aside -->\n")
    names = ["--problems", "Branin, 2", "Shekel, 4"]
    few = [*names, "--methods", "default", "no refinement", "--seeds", "1"]
    cells = ["--cells", str(tmp_path / "cells")]
    done = scripts.run(BENCHMARK, "run", *cells, *few)
    assert done.returncode == 0, done.stderr
    done = scripts.run(BENCHMARK, "report", *cells, "--out", str(out), "--page", str(page))
    assert done.returncode == 0, done.stderr
    stored = json.loads(out.read_text())
    assert np.shape(stored["aside"]["gaps"]["Shekel, 4"]["default"]) == (2, 1)
    assert stored["chosen"]["better"] == {"Branin, 2": []}
    assert page.read_text().count("| no refinement |") == 2


def test_holm_finds_what_is_better_on_every_seed(problems: ModuleType) -> None:
    benchmark = importlib.import_module("population_functions")
    gaps = {name: np.full((2, 10), 0.1) for name in benchmark.METHODS}
    assert benchmark.separated(gaps, [*gaps], "greater") == []
    assert benchmark.separated(gaps, [*gaps], "less") == []
    gaps["perturb"] = 0.1 * np.linspace(0.1, 0.9, 20).reshape(2, 10)
    gaps["teacher"] = gaps["perturb"] + 0.1
    assert benchmark.separated(gaps, [*gaps], "greater") == ["perturb"]
    assert benchmark.separated(gaps, [*gaps], "less") == ["teacher"]
