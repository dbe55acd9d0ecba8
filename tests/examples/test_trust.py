"""The benchmark of trust in hypergradients, in small."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scripts

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "examples" / "benchmarks" / "trust.py"


@pytest.mark.slow
def test_it_compares_estimates_with_differences(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "chaos.md", tmp_path)
    out, cells = tmp_path / "trust.json", tmp_path / "cells"
    places = ["--data-root", str(tmp_path), "--cells", str(cells), "--out", str(out)]
    few = ["--jobs", "mlp", "--levels", "1", "--estimates", "exact", "damped", "--seeds", "0", "1"]
    parts = ["differences", "estimates", "report"]
    done = scripts.run(BENCHMARK, *parts, *places, *few, "--docs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())["table"]["mlp-1"]
    assert row["seeds"] == 2 and row["clear"] >= 2
    for estimate in ("exact", "damped"):
        own = row["estimates"][estimate]
        assert own["right"] > 0.6 and own["cosine"] > 0.7 and own["growth"] < 1.5
    assert "| mlp, 1 | 2 |" in (tmp_path / "chaos.md").read_text()
    assert (tmp_path / "chaos_signs.png").stat().st_size > 10_000


@pytest.mark.parametrize("n", [1, 6, 7, 8, 11])
def test_designs_measure_each_slope_by_every_run(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    design = importlib.import_module("trust_differences").design
    signs = design(n, seed=3)
    assert np.array_equal(np.abs(signs), np.ones((8 if n <= 7 else 12, n)))
    assert np.array_equal(signs.T @ signs, len(signs) * np.eye(n))
    assert not signs.sum(0).any() and not np.array_equal(signs, design(n, seed=4))
