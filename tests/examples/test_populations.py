"""Populations on real trainings, in small."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import optuna
import pytest

import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "arena" / "populations.py"


@pytest.mark.slow
def test_cells_are_stored_with_the_network_and_its_schedules_judged(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/populations.db"
    few = ["--jobs", "breast-cancer-60", "--methods", "default", "tpe", "--seeds", "0"]
    places = ["--data", ".", "--storage", storage, "--artifacts", str(tmp_path / "artifacts")]
    done = scripts.run(SCRIPT, *places, *few, "--budget", "1")
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert [*printed] == ["breast-cancer-60/default/0", "breast-cancer-60/tpe/0"]
    for cell, result in printed.items():
        stored = optuna.load_study(study_name=cell, storage=storage)
        assert stored.user_attrs["result"] == json.loads(result)
        for name in ("validation", "test", "fresh"):
            assert math.isfinite(stored.user_attrs["result"][name])
    assert json.loads(printed["breast-cancer-60/default/0"])["trials"] >= 20

    shutil.copy(SCRIPT.parents[2] / "docs" / "population.md", tmp_path)
    out = ["--out", tmp_path / "table.json", "--docs", tmp_path]
    done = scripts.run(SCRIPT.with_name("populations_table.py"), "--storage", storage, *out)
    assert done.returncode == 0, done.stderr
    head, _, row = done.stdout.splitlines()
    assert head == "| job | default | tpe |"
    for cell, result in zip(row.split(" | ")[1:], printed.values(), strict=True):
        expected = json.loads(result)
        assert f"{expected['test']:.4g}" in cell and f"({expected['fresh']:.4g})" in cell
    assert row in (tmp_path / "population.md").read_text()


def test_pb2_without_ray_says_what_to_install_before_any_cell_runs(tmp_path: Path) -> None:
    arguments = ["populations.py", "--data", ".", "--storage", f"sqlite:///{tmp_path}/none.db"]
    code = f"""
import runpy, sys
sys.modules["ray"] = None
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.argv = {[*arguments, "--methods", "tpe", "pb2"]!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = scripts.run("-c", code)
    assert done.returncode == 1 and done.stdout == ""
    assert 'pip install "ray[tune]" GPy' in done.stderr
    assert not (tmp_path / "none.db").exists()
