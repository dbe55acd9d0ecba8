"""The benchmark of the pruners runs from a shell and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "pruners.py"


def test_every_pruner_is_measured_with_and_without(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--seeds", "1", "--trials", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {case.split(",")[0] for case in found} == {"divergence", "truncation", "consensus"}
    for (result,) in found.values():
        assert 0 < result["with"]["steps"] <= result["without"]["steps"]
    assert done.stdout.count("\n") == 1 + len(found)
