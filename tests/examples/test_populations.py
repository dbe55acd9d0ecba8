"""Populations on real trainings, in small."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna

import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "arena" / "populations.py"


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
