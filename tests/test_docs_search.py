"""The code and the tables on constraints in docs/search.md and docs/population.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest

from optuna_hypergrad import GradientSampler, PopulationSampler, report_hypergradient

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "search.md").read_text()

pytestmark = pytest.mark.skipif(
    not hasattr(optuna.trial.Trial, "set_constraint"), reason="Trial.set_constraint is of Optuna 5"
)

Objective = Callable[[optuna.Trial], float]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's blocks define."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)  # the blocks are this repository's own text
    return names


def row(text: str, name: str) -> list[str]:
    """The cells of the row with this name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def outcome(study: optuna.Study, digits: int = 3) -> tuple[str, str]:
    feasible = [t for t in study.trials if all(v <= 0 for v in t.constraints.values())]
    return str(len(feasible)), f"{min(trial.value for trial in feasible):.{digits}f}"


def plane(trial: optuna.Trial) -> tuple[float, float]:
    """The excess and the value; reports no hypergradient."""
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
    trial.set_constraint("budget", x + y + 0.5)
    return x + y + 0.5, (x - 0.8) ** 2 + (y - 0.6) ** 2


def loss_alone(trial: optuna.Trial) -> float:
    _, value = plane(trial)
    x, y = trial.params["x"], trial.params["y"]
    report_hypergradient(trial, {"x": 2 * (x - 0.8), "y": 2 * (y - 0.6)})
    return value


def test_the_code_ends_at_the_bound(page: dict[str, Any]) -> None:
    study = page["study"]
    assert sum(study.best_params.values()) <= -0.5
    assert 1.805 <= study.best_value < 1.815  # (0.8 + 0.6 + 0.5)² / 2


@pytest.mark.parametrize(
    "name, of_page",
    [
        ("`GradientSampler`, the constraint's hypergradient reported", True),
        ("`GradientSampler`, the loss's alone", False),
    ],
)
def test_the_search_does_what_the_table_says(
    page: dict[str, Any], name: str, of_page: bool
) -> None:
    objective: Objective = page["objective"] if of_page else loss_alone
    sampler = GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=40)
    assert outcome(study) == tuple(row(PAGE, name))


@pytest.mark.parametrize("mutation", ["surrogate", "teacher"])
@pytest.mark.parametrize(
    "name, which",
    [
        ("nothing", lambda page: lambda trial: plane(trial)[1]),
        ("the loss's hypergradient", lambda page: loss_alone),
        ("the violated constraint's, too", lambda page: page["objective"]),
    ],
)
def test_a_population_does_what_its_table_says(
    page: dict[str, Any],
    name: str,
    which: Callable[[dict[str, Any]], Objective],
    mutation: Literal["surrogate", "teacher"],
) -> None:
    found = []
    for seed in range(4):
        sampler = PopulationSampler(seed=seed, population_size=8, burn_in=0, mutation=mutation)
        study = optuna.create_study(sampler=sampler)
        study.optimize(which(page), n_trials=120)
        found.append(outcome(study))
    cells = row((DOCS / "population.md").read_text(), f"{mutation} | {name}")[1:]
    assert [*zip(*(cell.split(", ") for cell in cells), strict=True)] == found
