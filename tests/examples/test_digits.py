"""The main job as a user runs it: from a shell, resumed, and with other samplers."""

from pathlib import Path

import optuna
import pytest

import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "digits.py"


def run(folder: Path, *arguments: str) -> str:
    done = scripts.run(SCRIPT, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_learns_from_zero_resumes_and_draws(tmp_path: Path) -> None:
    first = run(tmp_path, "--trials", "3")
    assert "digits-gradient-0: 0 of 3 trials done" in first
    assert (tmp_path / "digits_schedules.png").stat().st_size > 10_000
    second = run(tmp_path, "--trials", "5")
    assert "digits-gradient-0: 3 of 5 trials done" in second
    assert "optuna-dashboard sqlite:///digits.db" in second
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/digits.db")
    losses = [trial.value for trial in study.trials]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert losses[0] > 2.2 and losses[4] < 0.25
    rows = second.splitlines()
    assert [f"{trial.number:5d} {trial.value:8.3f}" for trial in study.trials] == [
        row[:14] for row in rows[2:7]
    ]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_other_samplers_get_at_least_the_same_compute(tmp_path: Path, sampler: str) -> None:
    run(tmp_path, "--trials", "2", "--sampler", sampler)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/digits.db")
    assert len(study.trials) == 14
    evaluations = sum(t.user_attrs["gradient_evaluations"] for t in study.trials)
    run(tmp_path, "--trials", "2", "--storage", "sqlite:///gradient.db")
    gradient = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/gradient.db")
    ours = sum(t.user_attrs["gradient_evaluations"] for t in gradient.trials)
    assert ours <= evaluations <= 1.05 * ours
