"""The scripts about windows run from a shell and write what they measured; on a made-up MNIST."""

import json
from pathlib import Path
from typing import Any

import pytest

import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, data: Path, *arguments: str) -> tuple[str, Any]:
    out = data / "out.json"
    done = scripts.run(EXAMPLES / script, "--data-root", data, *arguments, "--json", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.mark.slow
def test_windows_by_hand_and_automatic_ones_make_a_table(data: Path) -> None:
    arguments = ("--windows", "2", "auto", "--seeds", "0", "--trials", "2", "--steps", "8")
    printed, found = run("benchmarks/windows.py", data, *arguments)
    by_hand, automatic = found["results"]
    assert [len(result["losses"]) for result in found["results"]] == [2, 2]
    assert by_hand["losses"][0] == automatic["losses"][0]  # all zero, where nothing is learned
    assert by_hand["cuts"] == [2, 2] and all(1 <= cut <= 32 for cut in automatic["cuts"])
    assert [line.split()[1] for line in printed.splitlines()[-2:]] == ["2", "auto"]


@pytest.mark.slow
def test_hypervariance_is_measured_and_drawn(data: Path) -> None:
    figure = data / "figure.png"
    arguments = ("--runs", "2", "--steps", "40", "--batch-size", "2", "--figure", str(figure))
    printed, found = run("paper/hypervariance.py", data, *arguments)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(found) == 4 and f"wrote {figure}" in printed
    for rows in found.values():
        for ratio, flips in rows.values():
            assert ratio > 0 and 0 <= flips <= 0.5
