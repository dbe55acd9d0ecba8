"""Populations on functions whose hypergradients are known in closed form.

Population-based methods minimise Branin, Hartmann-6, Rastrigin and Ackley (both in four dimensions)
from the same random starts and with the same number of evaluations:

    python examples/synthetic.py

prints the gap between the best value and the minimum, and draws the trajectories through the first
two dimensions, over the slice of the function through its minimum, where white is low. A segment is
one trial with one evaluation. (Branin has three minima, all global; the other functions have local
minima.) With --seeds 20 --evaluations 1000 it makes the table of docs/population.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
from methods import METHODS
from numpy.typing import NDArray
from pictures import save

from optuna_hypergrad import PopulationSampler, report_hypergradient

# The package's figures show one study each. This one combines panels of several studies, for which
# it uses internal modules that may change.
from optuna_hypergrad.visualization.charts import Axis, Chart, Line, Panel, colors
from optuna_hypergrad.visualization.figures import trajectories
from optuna_hypergrad.visualization.matplotlib import draw as draw_chart

POPULATION = 20
DRAWN = {"PBT": colors.PINK, "STN + random starts": colors.GREY, "HPM": colors.GREEN}
Array = NDArray[np.float64]
Evaluated = tuple[float, Array]  # value and gradient


def branin(x: Array) -> Evaluated:
    b, c, t = 5.1 / (4 * np.pi**2), 5 / np.pi, 1 / (8 * np.pi)
    q = x[1] - b * x[0] ** 2 + c * x[0] - 6
    value = q**2 + 10 * (1 - t) * np.cos(x[0]) + 10
    return value, np.array([2 * q * (c - 2 * b * x[0]) - 10 * (1 - t) * np.sin(x[0]), 2 * q])


HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
PRECISIONS = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(x: Array) -> Evaluated:
    distance = x - CENTRES
    bumps = HEIGHTS * np.exp(-(PRECISIONS * distance**2).sum(axis=1))
    return -bumps.sum(), (2 * PRECISIONS * distance * bumps[:, None]).sum(axis=0)


def rastrigin(x: Array) -> Evaluated:
    value = (x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum()
    return value, 2 * x + 20 * np.pi * np.sin(2 * np.pi * x)


def ackley(x: Array) -> Evaluated:
    n, norm = len(x), np.sqrt((x**2).mean())
    bowl, ripples = 20 * np.exp(-0.2 * norm), np.exp(np.cos(2 * np.pi * x).mean())
    of_bowl = 0.2 * bowl * x / (n * max(norm, 1e-12))
    return 20 + np.e - bowl - ripples, of_bowl + ripples * 2 * np.pi * np.sin(2 * np.pi * x) / n


class Problem(NamedTuple):
    """A function to be minimised inside a box."""

    function: Callable[[Array], Evaluated]
    low: Array
    high: Array
    argmin: Array

    @property
    def minimum(self) -> float:
        return self.function(self.argmin)[0]

    def slice(self, x: float, y: float) -> float:
        """The value at the first two coordinates, with all others at the minimum."""
        return self.function(np.array([x, y, *self.argmin[2:]]))[0]

    def objective(self, trial: optuna.Trial) -> float:
        bounds = enumerate(zip(self.low, self.high, strict=True))
        x = np.array([trial.suggest_float(f"x{i}", low, high) for i, (low, high) in bounds])
        value, gradient = self.function(x)
        report_hypergradient(trial, {f"x{i}": g for i, g in enumerate(gradient)})
        return float(value)


PROBLEMS = {
    "Branin": Problem(
        branin, np.array([-5.0, 0.0]), np.array([10.0, 15.0]), np.array([np.pi, 2.275])
    ),
    "Hartmann-6": Problem(
        hartmann,
        np.zeros(6),
        np.ones(6),
        np.array([0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730053]),
    ),
    "Rastrigin": Problem(rastrigin, np.full(4, -5.12), np.full(4, 5.12), np.zeros(4)),
    "Ackley": Problem(ackley, np.full(4, -32.768), np.full(4, 32.768), np.zeros(4)),
}


def run(problem: str, method: str, seed: int, evaluations: int) -> optuna.Study:
    arguments = {"population_size": POPULATION, **METHODS[method]}
    study = optuna.create_study(sampler=PopulationSampler(seed=seed, **arguments))
    study.optimize(PROBLEMS[problem].objective, n_trials=evaluations)
    return study


def gap(problem: str, method: str, evaluations: int, seed: int) -> float:
    """The gap between the best value and the minimum."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = run(problem, method, seed, evaluations).best_value
    return max(best - PROBLEMS[problem].minimum, 0.0)


def print_table(gaps: dict[str, dict[str, list[float]]]) -> None:
    print(f"{'gap to the minimum: median (mean)':34s}" + "".join(f"{p:>19s}" for p in PROBLEMS))
    for method in METHODS:
        found = [gaps[problem][method] for problem in PROBLEMS]
        cells = [f"{np.median(values):.3f} ({np.mean(values):.3f})" for values in found]
        print(f"{method:34s}" + "".join(f"{cell:>19s}" for cell in cells))


def draw(seed: int, evaluations: int, path: Path) -> None:
    """Trajectories in the first two dimensions, and the best value by evaluation."""
    panels: list[Panel] = []
    for name, problem in PROBLEMS.items():
        studies = {method: run(name, method, seed, evaluations) for method in DRAWN}
        for method, study in studies.items():
            (panel,) = trajectories(study, "x0", "x1", problem.slice).panels
            panels.append(replace(panel, title=f"{name}: {method}"))
        panels.append(_gaps(problem, studies))
    figure = draw_chart(Chart("", panels, columns=len(DRAWN) + 1, size=(3.7, 3.4)))
    save(figure, path, dpi=80)


def _gaps(problem: Problem, studies: dict[str, optuna.Study]) -> Panel:
    marks = []
    for (method, study), color in zip(studies.items(), DRAWN.values(), strict=True):
        best = np.minimum.accumulate([t.value for t in study.get_trials(deepcopy=False)])
        gaps = best - problem.minimum + 1e-6
        marks.append(Line(range(len(gaps)), gaps, color, method, is_step=True))
    return Panel("gap to the minimum (+1e-6)", Axis("evaluation"), Axis(is_log=True), marks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    parser.add_argument("--evaluations", type=int, default=400, help="trials of each study")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--figure", type=Path, default=Path("synthetic.png"))
    parser.add_argument("--json", type=Path, help="write all gaps to this file")
    args = parser.parse_args()
    for name in ("seeds", "evaluations", "processes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def measure(seeds: Sequence[int], evaluations: int, processes: int) -> dict[str, dict]:
    gaps: dict[str, dict[str, list[float]]] = {problem: {} for problem in PROBLEMS}
    with ProcessPoolExecutor(processes) as pool:
        for problem in PROBLEMS:
            for method in METHODS:
                task = partial(gap, problem, method, evaluations)
                gaps[problem][method] = list(pool.map(task, seeds))
    return gaps


def main() -> None:
    args = parse_arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{args.seeds} seeds, {args.evaluations} evaluations each")
    gaps = measure(range(args.seeds), args.evaluations, args.processes)
    print_table(gaps)
    if args.json is not None:
        args.json.write_text(json.dumps({**vars(args), "gaps": gaps}, default=str, indent=1))
    draw(0, args.evaluations, args.figure)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
