"""Who may import whom, read from the import statements, and what stays unloaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "optuna_hypergrad"

# What each room must not import: the maths is pure, samplers need no torch, autodiff no Optuna.
SHOWN = {"plotly", "matplotlib", "visualization", "dashboard", "integrations"}
TENSORS = {"torch", "autodiff", "hypernet", "checkpoints", "members", "distributed"}
BELOW = {  # the rooms below those that show something
    "algorithms": {"optuna", "samplers", "reports", "schedules", "results"} | TENSORS,
    "arguments.py": {"optuna", "samplers", "reports", "schedules", "suggest"} | TENSORS,
    "logger.py": {"samplers", "reports", "schedules", "suggest"} | TENSORS,
    "schedules": {"optuna", "samplers", "reports", "suggest", "results"} | TENSORS - {"torch"},
    "options.py": {"optuna", "samplers", "reports", "schedules", "suggest"} | TENSORS - {"torch"},
    "suggest.py": {"samplers", "results"} | TENSORS,
    "arrays": {"samplers", "results", "schedules", "suggest"} | TENSORS,
    "results.py": {"pruners", "suggest", "reporting"} | TENSORS,
    "journal.py": {"reports", "samplers", "schedules", "suggest"} | TENSORS,
    "reporting.py": {"samplers", "pruners", "suggest"} | TENSORS,
    "reports": {"samplers", "pruners", "schedules", "suggest", "reporting", "results"} | TENSORS,
    "samplers": {"pruners", "results"} | TENSORS,
    "pruners": {"results"} | TENSORS,
    "autodiff": {"optuna", "samplers", "reports"} | TENSORS - {"torch", "autodiff"},
    "hypernet": {"optuna", "samplers", "reports", "checkpoints", "members", "distributed"},
    "checkpoints": {"samplers", "autodiff", "hypernet", "members", "distributed"},
    "members": {"autodiff", "hypernet", "distributed"},
    "distributed": {"samplers", "pruners", "hypernet", "checkpoints", "members"},
}
FORBIDDEN = {room: forbidden | SHOWN for room, forbidden in BELOW.items()} | {
    "visualization": {"pruners", "suggest", "reporting", "results", "dashboard"} | TENSORS,
    "visualization/charts": {"plotly", "matplotlib", "dashboard"} | TENSORS,
    "dashboard": {"pruners", "suggest", "reporting", "integrations"} | TENSORS,
    "integrations": {"optuna", "samplers", "pruners", "reports", "suggest", "reporting"}
    | TENSORS - {"torch"},
}


def imports(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports; for the package itself, the room's name.

    Imports that only type checkers follow do not count, those inside functions do.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == PACKAGE.name and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_run_one_way(room: str) -> None:
    path = PACKAGE / room
    files = [path] if path.is_file() else list(path.rglob("*.py"))
    assert files
    found = {(file.name, name) for file in files for name in imports(file)}
    assert not {pair for pair in found if pair[1] in FORBIDDEN[room]}


def test_every_room_is_held_to_a_rule() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= FORBIDDEN.keys()


LATER = {"torch", "plotly", "matplotlib", "optuna_dashboard", "lightning", "transformers"}


STATEMENTS = [
    "import optuna_hypergrad",
    "from optuna_hypergrad import GradientSampler, Schedule, report_hypergradient",
    "from optuna_hypergrad import PopulationSampler, suggest_schedule, trial_seed, watch",
    "from optuna_hypergrad import ConsensusPruner, DivergencePruner, TruncationPruner",
    "from optuna_hypergrad import best_schedules, lineage, outer_steps, students",
    "from optuna_hypergrad import publish; from optuna_hypergrad.visualization import *",
    "from optuna_hypergrad import Schedules, best_schedules, lineage_schedules",
]
FRESH = f"""
import os, sys, optuna
for statement in sys.argv[1:]:
    if not (child := os.fork()):
        exec(statement, {{}})
        os._exit(bool({LATER} & sys.modules.keys()))
    assert not os.waitpid(child, 0)[1], statement
"""


def test_what_trains_or_draws_stays_unloaded() -> None:
    """Each statement in a process that has imported nothing of the package."""
    subprocess.run([sys.executable, "-c", FRESH, *STATEMENTS], check=True)


def test_public_names_are_found_and_others_are_not() -> None:
    import optuna_hypergrad

    for name in optuna_hypergrad.__all__:
        assert getattr(optuna_hypergrad, name).__name__ == name
    assert optuna_hypergrad.members.begin.__name__ == "begin"
    assert {*optuna_hypergrad.__all__, "members"} <= set(dir(optuna_hypergrad))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optuna_hypergrad.nothing
