"""The benchmarks run from a shell and write what they measured; on a made-up MNIST."""

import json
from pathlib import Path

import pytest

import scripts

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def run(script: str, data: Path, *arguments: str) -> tuple[str, dict]:
    out = data / "out.json"
    done = scripts.run(BENCHMARKS / script, "--data-root", data, *arguments, "--json", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.mark.slow
def test_outer_step_compares_with_the_naive_loop(data: Path) -> None:
    printed, found = run("outer_step.py", data, "--steps", "14", "--rounds", "1")
    assert "ours / naive" in printed
    # In float32, where rounding puts a ReLU of one of the runs on its other side.
    assert float(printed.split("gradients differ by ")[1].split()[0]) < 1e-3
    assert set(found["ratios"]) == {"plain", "train only", "ours", "naive"}
    assert sum(found["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_mnist_rules_traces_both_rules(data: Path) -> None:
    arguments = ("--seeds", "0", "--trials", "2", "--steps", "14")
    printed, found = run("mnist_rules.py", data, *arguments)
    assert [line.split()[0] for line in printed.splitlines()] == ["plain", "safeguarded"]
    assert [len(result["losses"]) for result in found["results"]] == [2, 2]


def test_half_precision_counts_signs(data: Path) -> None:
    printed, found = run("half_precision.py", data, "--steps", "10", "--seeds", "1")
    assert "signs are the same" in printed and {v["of"] for v in found.values()} == {12}
