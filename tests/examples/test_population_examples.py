"""The population examples as a user runs them: from a shell, stopped in mid-population, resumed."""

import importlib
import json
from pathlib import Path

import numpy as np
import optuna
import pytest

import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, folder: Path, *arguments: str) -> str:
    done = scripts.run(EXAMPLES / script, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/digits_population.db")


def test_digits_population_learns_resumes_in_mid_population_and_prints_its_lineage(
    tmp_path: Path,
) -> None:
    first = run("digits_population.py", tmp_path, "--population", "4", "--generations", "2")
    assert "0 of 8 segments done" in first
    second = run("digits_population.py", tmp_path, "--population", "4", "--generations", "5")
    assert "8 of 20 segments done" in second
    study = load(tmp_path)
    assert len(study.trials) == 20
    assert study.best_trial.user_attrs["test_accuracy"] > 0.9
    rows = second.splitlines()[2:-3]
    assert rows[-1].split()[1] == str(study.best_trial.number)
    assert [row.split()[0] for row in rows] == [str(n) for n in range(len(rows))]
    assert f"{study.best_trial.user_attrs['test_accuracy']:.1%}" in second
    assert len(list((tmp_path / "digits_population").iterdir())) <= 4 * 3 + 1
    assert (tmp_path / "digits_population.png").stat().st_size > 20_000


@pytest.mark.slow
def test_synthetic_compares_methods_and_draws(tmp_path: Path) -> None:
    arguments = ("--seeds", "1", "--evaluations", "60", "--json", "gaps.json")
    printed = run("synthetic.py", tmp_path, *arguments)
    gaps = json.loads((tmp_path / "gaps.json").read_text())["gaps"]
    assert set(gaps) == {"Branin", "Hartmann-6", "Rastrigin", "Ackley"}
    for problem in gaps.values():
        assert len(problem) == 11 and all(gap >= 0 for (gap,) in problem.values())
    assert gaps["Branin"]["HPM"][0] < 0.5
    assert printed.count("(") >= 44
    assert (tmp_path / "synthetic.png").stat().st_size > 50_000


def test_the_gradients_of_the_synthetic_functions_are_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for problem in importlib.import_module("synthetic").PROBLEMS.values():
        x = problem.low + 0.37 * (problem.high - problem.low)
        value, gradient = problem.function(x)
        for i in range(len(x)):
            h = 1e-5 * np.eye(len(x))[i]
            numeric = (problem.function(x + h)[0] - problem.function(x - h)[0]) / 2e-5
            assert abs(numeric - gradient[i]) < 1e-4 * max(abs(gradient[i]), 1), (problem, i)
        assert np.abs(problem.function(problem.argmin + 1e-9)[1]).max() < 1e-2 or value > 0
        assert problem.minimum < value


@pytest.mark.parametrize("script", ["synthetic.py", "digits_population.py"])
def test_bad_arguments_are_named(script: str, tmp_path: Path) -> None:
    argument = "--seeds" if script == "synthetic.py" else "--population"
    done = scripts.run(EXAMPLES / script, argument, "0", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{argument} must be at least 1, got 0" in done.stderr


def test_disk_use_is_bounded(tmp_path: Path) -> None:
    out = tmp_path / "disk.json"
    arguments = ("--population", "3", "--generations", "8", "--json", str(out))
    run("benchmarks/disk_use.py", tmp_path, *arguments)
    found = json.loads(out.read_text())
    assert found["all"]["files"] == 24
    assert found["living"]["files"] <= 3 * 3 + 1
    assert found["living"]["most bytes"] < found["all"]["most bytes"] / 2


def test_ask_cost_compares_four_samplers(tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    run("benchmarks/ask_cost.py", tmp_path, "--sizes", "12", "--rounds", "2", "--json", str(out))
    found = json.loads(out.read_text())
    assert set(found) == {"memory, 12", "sqlite, 12"}
    for took in found.values():
        assert set(took) == {"random", "TPE", "gradient", "population"}


@pytest.mark.slow
def test_digits_methods_compares_methods(tmp_path: Path) -> None:
    out = tmp_path / "methods.json"
    methods = ("HPM w/o hypertraining", "PBT")
    arguments = ("--methods", *methods, "--seeds", "1", "--generations", "1", "--json", str(out))
    printed = run("benchmarks/digits_methods.py", tmp_path, *arguments)
    found = json.loads(out.read_text())
    assert [line[:28].strip() for line in printed.splitlines()[1:]] == [*methods]
    assert all(0 < result["test"] < 1 for (result,) in found.values())
