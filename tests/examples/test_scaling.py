"""The benchmarks of many workers, in small."""

import json
from pathlib import Path

import pytest
from test_population_examples import run

SAMPLERS = {"random", "gradient", "population"}


@pytest.mark.slow
def test_scaling_counts_trials_of_all_samplers(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    few = ("--storage", "sqlite", "--workers", "2", "--trials", "4", "--rounds", "1")
    printed = run("benchmarks/scaling.py", tmp_path, *few, "--json", str(out))
    found = json.loads(out.read_text())["2"]
    assert printed.startswith("  2 workers")
    assert all(set(table) == {*SAMPLERS, "TPE"} for table in found.values())
    assert all(rate > 0 for rate in found["trials per second"].values())


@pytest.mark.slow
def test_the_simulation_finds_nothing_wrong_with_the_lineage(tmp_path: Path) -> None:
    out = tmp_path / "simulation.json"
    run("benchmarks/simulation.py", tmp_path, "--trials", "900", "--json", str(out))
    found = json.loads(out.read_text())
    assert set(found) == SAMPLERS
    for one in found.values():
        assert sum(one["states"].values()) == 900 and one["states"]["COMPLETE"] > 700
        assert not any(one["wrong"].values())
        assert len(one["ms"]) == 5
