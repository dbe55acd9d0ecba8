"""Count the modules and lines of the package, and those that a trial and a hypergradient use.

    python examples/benchmarks/architecture.py

prints JSON: modules, lines, import lines and one-caller functions of the package; for the tenth
trial of a GradientSampler and for a warm reverse run of four steps the modules touched, the changes
of module, the calls and their depth, counted by ``sys.setprofile``; the CPU time of importing the
package in units of importing Optuna; and that of ``mode="auto"`` in units of ``mode="reverse"``.
"""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import torch
from mnist import loss_fn
from networks import NETWORKS, random_batches

import optuna_hypergrad
from optuna_hypergrad import GradientSampler, Schedule, report_hypergradient, suggest_schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.training import Mode

PACKAGE = Path(optuna_hypergrad.__file__).parent
_HOST, _SAMPLER = "import optuna", "from optuna_hypergrad import GradientSampler"
COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
SHORT = 4  # lines: functions with one caller that are shorter are counted


class Profile:
    """The package's calls during a profiled piece of work."""

    def __init__(self) -> None:
        self.modules: Counter[str] = Counter()
        self.changes = self.calls = self.depth = 0
        self._stack: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(PACKAGE)):
            return
        if code.co_name in COMPREHENSIONS:  # Python 3.12 has no frames for most of them
            return
        module = str(Path(code.co_filename).relative_to(PACKAGE))
        if event == "return":
            if self._stack:
                self._stack.pop()
            return
        self.calls += 1
        self.modules[module] += 1
        self.changes += bool(self._stack) and self._stack[-1] != module
        self._stack.append(module)
        self.depth = max(self.depth, len(self._stack))

    def counts(self) -> dict[str, Any]:
        """The numbers to report."""
        return {
            "modules": len(self.modules),
            "changes": self.changes,
            "calls": self.calls,
            "depth": self.depth,
            "calls_by_module": dict(self.modules.most_common()),
        }


@contextmanager
def profiling() -> Iterator[Profile]:
    """Profile the calls of this package's functions."""
    profile = Profile()
    sys.setprofile(profile)
    try:
        yield profile
    finally:
        sys.setprofile(None)


def trial() -> dict[str, Any]:
    """The tenth trial of a GradientSampler: a schedule of two windows."""

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=2)
        gradient = {name: value - 0.3 for name, value in lr.params.items()}
        report_hypergradient(trial, gradient)
        return sum(value**2 for value in gradient.values()) / 2

    study = optuna.create_study(sampler=GradientSampler(seed=0, strategy="sign_descent"))
    study.optimize(objective, n_trials=9)
    with profiling() as profile:
        study.optimize(objective, n_trials=1)
    return profile.counts()


def reverse(steps: int = 4) -> dict[str, Any]:
    """A reverse run, after a first one of the same kind."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 1)

    def run() -> None:
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        update = SGD(
            Schedule("lr", [0.1, 0.1]),
            momentum=Schedule("momentum", [0.9]),
            weight_decay=Schedule("wd", [0.01]),
        )
        hypergradient(model, loss, update, [(x, y)], (x, y), steps=steps, mode="reverse")

    run()
    with profiling() as profile:
        run()
    return profile.counts()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean squared error."""
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


def size() -> dict[str, Any]:
    """Modules and lines of the package."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    n_lines = sum(len(source.splitlines()) for source in sources)
    n_imports = sum(
        node.end_lineno - node.lineno + 1
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom) and node.end_lineno is not None
    )
    return {
        "modules": len(sources),
        "lines": n_lines,
        "import_lines": n_imports,
        "import_share": round(n_imports / n_lines, 4),
        "short_functions_with_one_caller": len(one_caller(sources)),
    }


def one_caller(sources: list[str]) -> list[str]:
    """Count module-level functions with one caller and fewer than ``SHORT`` lines.

    Lines of the body without its docstring; what a package exports does not count.
    """
    bodies: dict[str, int] = {}
    uses: Counter[str] = Counter()
    exported: set[str] = set()
    for source in sources:
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                last = body[-1].end_lineno if body else None
                bodies[node.name] = last - body[0].lineno + 1 if body and last else 0
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                exported.update(ast.literal_eval(node.value))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                uses[node.id] += 1
            elif isinstance(node, ast.Attribute):
                uses[node.attr] += 1
    return sorted(
        name
        for name, lines in bodies.items()
        if lines < SHORT and uses[name] == 1 and name not in exported and name[:2] != "__"
    )


def import_ratio(rounds: int = 7) -> float:
    """CPU time of importing a sampler over that of importing Optuna; interleaved, medians."""
    statement = "{0}; import resource; u = resource.getrusage(resource.RUSAGE_SELF); "
    statement += "print(u.ru_utime + u.ru_stime)"
    times: dict[str, list[float]] = {_HOST: [], _SAMPLER: []}
    for _ in range(rounds):
        for name, found in times.items():
            code = [sys.executable, "-c", statement.format(name)]
            done = subprocess.run(code, capture_output=True, text=True, check=True)
            found.append(float(done.stdout))
    package, host = (statistics.median(times[name]) for name in (_SAMPLER, _HOST))
    return round(package / host, 3)


def auto_ratios() -> dict[str, float]:
    """CPU time of a run in the default mode over one in reverse mode; interleaved, medians."""
    ratios = {}
    for name, size, steps, rounds in (("mlp", 64, 300, 7), ("lenet", 128, 60, 3)):
        network = NETWORKS[name]
        batches = random_batches(network, 4, size, torch.float32)
        times: dict[Mode, list[float]] = {"auto": [], "reverse": []}
        for _ in range(rounds + 1):  # the first round loads what torch loads once
            for mode, found in times.items():
                model, began = network.make(0), time.process_time()
                update = SGD(
                    Schedule("lr", [0.05] * 7),
                    momentum=Schedule("momentum", [0.5]),
                    weight_decay=Schedule("wd", [1e-4]),
                )
                hypergradient(model, loss_fn, update, batches, batches[0], steps=steps, mode=mode)
                found.append(time.process_time() - began)
        auto, reverse = (statistics.median(found[1:]) for found in times.values())
        ratios[f"{name}, {steps} steps"] = round(auto / reverse, 3)
    return ratios


def main() -> None:
    """Print all counts."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    counts: dict[str, Callable[[], Any]] = {
        "size": size,
        "trial": trial,
        "reverse": reverse,
        "import_ratio": import_ratio,
        "auto_over_reverse": auto_ratios,
    }
    print(json.dumps({name: count() for name, count in counts.items()}, indent=1))


if __name__ == "__main__":
    main()
