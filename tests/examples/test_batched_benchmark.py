"""The benchmark of batched runs: both ways give the same, and the figures are written."""

import json
from pathlib import Path

import scripts


def test_a_small_case(tmp_path: Path) -> None:
    file = tmp_path / "batched.json"
    options = ["--networks", "mlp", "--steps", "20", "--runs", "2", "--rounds", "1"]
    done = scripts.run("examples/benchmarks/batched.py", *options, "--json", str(file))
    assert "2 runs, batches of 32, 20 steps" in done.stdout
    (case,) = json.loads(file.read_text())["runs"]
    assert case["loss off by"] < 1e-5 and case["gradient off by"] < 1e-3
