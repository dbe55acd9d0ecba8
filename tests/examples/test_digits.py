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


def evaluations(folder: Path, n_trials: int) -> int:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/digits.db")
    assert len(study.trials) == n_trials
    return sum(trial.user_attrs["gradient_evaluations"] for trial in study.trials)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Gradient evaluations of a search by hypergradients."""
    folder = tmp_path_factory.mktemp("gradient")
    run(folder, "--trials", "1")
    return evaluations(folder, 1)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("random", "cmaes")]


@pytest.mark.parametrize("sampler", ["tpe", *SLOW])
def test_other_samplers_get_at_least_the_same_compute(
    tmp_path: Path, sampler: str, ours: int
) -> None:
    run(tmp_path, "--trials", "1", "--sampler", sampler)
    assert ours <= evaluations(tmp_path, 7) <= 1.05 * ours
