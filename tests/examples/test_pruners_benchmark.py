"""The benchmark of the pruners runs from a shell and writes what it measured."""

import json
from pathlib import Path

import pytest

import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "pruners.py"


@pytest.mark.slow
def test_every_pruner_is_measured_with_and_without(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    few = ("--seeds", "1", "--trials", "1", "--json", out)
    done = scripts.run(SCRIPT, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {case.split(",")[0] for case in found} == {"divergence", "truncation", "consensus"}
    for (result,) in found.values():
        assert 0 < result["with"]["steps"] <= result["without"]["steps"]
    assert done.stdout.count("\n") == 1 + len(found)
