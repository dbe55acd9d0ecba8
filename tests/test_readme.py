"""What the README promises: its commands are those that CI runs, and its code works."""

import re
from pathlib import Path

import optuna
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_two_commands_of_which_continuous_integration_runs_the_second() -> None:
    main, tests = (block.strip() for block in blocks("sh"))
    assert main.endswith(".venv/bin/python examples/digits.py")
    assert (ROOT / "examples" / "digits.py").exists()
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_what_the_readme_names_exists() -> None:
    named = re.findall(r"`(?:examples|optuna_hypergrad|tests)/[\w/.]+", README)
    named += re.findall(r"\]\(((?:examples|docs)/\w+\.\w+)\)", README)
    assert named
    for path in named:
        assert (ROOT / path.strip("`")).exists(), path


def test_the_objectives_in_the_readme_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, optuna.Study] = {}
    for code in blocks("python"):
        exec(code, names)  # the blocks are this repository's own text
    study, population = names["study"], names["population"]
    assert len(study.trials) == 12
    assert study.trials[0].value == pytest.approx(0.69, abs=0.05)  # chance, from all zeros
    assert study.best_value < 0.3
    assert population.best_value < 0.3


def test_an_objective_takes_at_most_fifteen_lines_beside_its_model_and_data() -> None:
    code = blocks("python")[0]
    body = code.split("def objective(trial):\n")[1].split("\n\n")[0].splitlines()
    assert len([line for line in body if "model = " not in line]) <= 15
