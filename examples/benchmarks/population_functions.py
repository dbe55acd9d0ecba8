"""PopulationSampler's default beside its own ablations, on twenty functions.

    python examples/benchmarks/population_functions.py run --cells DIR
    python examples/benchmarks/population_functions.py report --cells DIR

A gap is the best value found above the minimum, in units of the median random point's; below 1e-4
a function counts as solved. All methods of a seed have the same starts. An ablation is better than
the default on a function if Wilcoxon's signed-rank test over the seeds of both settings says so at
the level 0.05, by Holm's correction for the number of ablations. Each cell is a file, and is not
run again. ``report`` writes the JSON and the tables of docs/population.md. Less than a second for
each method, function and seed on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from population_problems import CHOSEN, SET_ASIDE, Problem
from scipy.stats import rankdata, wilcoxon

from optuna_hypergrad import PopulationSampler, report_hypergradient

PROBLEMS = {**CHOSEN, **SET_ASIDE}
SETTINGS = ((8, 20), (20, 25))  # members, generations
SEEDS = 10
SOLVED, LEVEL = 1e-4, 0.05
DEFAULT = "default"
METHODS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "teacher": {"mutation": "teacher"},
    "perturb": {"mutation": "perturb"},
    "resample": {"mutation": "resample", "resample_probability": 0.25},
    "one more step": {"mutation": "hypergradient"},
    "no mutation": {"mutation": None},
    "no resampling": {"resample_probability": 0.0},
    "resampling, 0.25": {"resample_probability": 0.25},
    "truncation 0": {"truncation": 0.0},
    "truncation 0.4": {"truncation": 0.4},
    "no refinement": {"refine": False},
}
RESULT = Path(__file__).parent / "results" / "population_functions.json"
PAGE = Path(__file__).parents[2] / "docs" / "population.md"
Gaps = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("run", "report"))
    parser.add_argument("--cells", type=Path, required=True, help="a folder")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds, from 0")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON of report")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page of report")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    if args.part == "report":
        report(args.cells, args.out, args.page)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    args.cells.mkdir(parents=True, exist_ok=True)
    for name in args.problems:
        for method in args.methods:
            file = args.cells / f"{name}; {method}.json"
            if not file.exists():
                file.write_text(json.dumps(cell(name, method, args.seeds)))


def cell(name: str, method: str, seeds: int) -> dict[str, Any]:
    """Gaps of a method on a function, by setting and seed."""
    problem, began = PROBLEMS[name], time.process_time()
    scale = problem.scale()
    gaps = [
        [gap(problem, method, seed, size, generations) / scale for seed in range(seeds)]
        for size, generations in SETTINGS
    ]
    seconds = time.process_time() - began
    print(f"{name:24s}{method:18s}{np.median(gaps):9.4f}{seconds:7.1f} s", flush=True)
    return {"problem": name, "method": method, "gaps": gaps, "seconds": seconds}


def gap(problem: Problem, method: str, seed: int, size: int, generations: int) -> float:
    """The best value above the minimum."""

    def objective(trial: optuna.Trial) -> float:
        bounds = enumerate(zip(problem.low, problem.high, strict=True))
        x = np.array([trial.suggest_float(f"x{i}", low, high) for i, (low, high) in bounds])
        found = problem.function(x)
        gradient = problem.gradient(x, found)
        report_hypergradient(trial, {f"x{i}": slope for i, slope in enumerate(gradient)})
        return float(found[0])

    sampler = PopulationSampler(seed=seed, population_size=size, **METHODS[method])
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=size * generations)
    return max(study.best_value - problem.minimum, 0.0)


def report(cells: Path, out: Path, page: Path) -> None:
    """Write the JSON and the tables of the page, and print how the default compares."""
    found: dict[str, dict[str, Gaps]] = {}
    for file in sorted(cells.glob("*.json")):
        stored = json.loads(file.read_text())
        found.setdefault(stored["problem"], {})[stored["method"]] = np.array(stored["gaps"])
    groups = {"chosen": [*CHOSEN], "aside": [*SET_ASIDE]}
    result: dict[str, Any] = {"seeds": SEEDS, "settings": SETTINGS, "solved": SOLVED}
    for group, names in groups.items():
        measured = {name: found[name] for name in names if name in found}
        methods = [m for m in METHODS if all(m in gaps for gaps in measured.values())]
        better = {name: separated(gaps, methods, "greater") for name, gaps in measured.items()}
        worse = {name: separated(gaps, methods, "less") for name, gaps in measured.items()}
        level = sum(not ones for ones in better.values())
        print(f"{group}: none of the ablations is better on {level} of {len(measured)}: {better}")
        result[group] = {
            "better": better,
            "worse": worse,
            "gaps": {n: {m: gaps[m].tolist() for m in methods} for n, gaps in measured.items()},
        }
        write(page, group, table(measured, methods, better, worse))
    out.write_text(json.dumps(result, indent=1, default=str) + "\n")


def clipped(gaps: Gaps) -> Gaps:
    """All seeds of all settings; gaps below the resolution are equal."""
    return np.maximum(gaps, SOLVED).ravel()


def separated(
    gaps: dict[str, Gaps], methods: list[str], alternative: Literal["greater", "less"]
) -> list[str]:
    """The ablations than which the default's gap is greater, or less, by Holm's procedure."""
    others = [method for method in methods if method != DEFAULT]
    default = np.log(clipped(gaps[DEFAULT]))
    p: dict[str, float] = {}
    for method in others:
        excess = default - np.log(clipped(gaps[method]))
        p[method] = wilcoxon(excess, alternative=alternative).pvalue if excess.any() else 1.0
    found: list[str] = []
    for rejected, method in enumerate(sorted(others, key=lambda m: p[m])):
        if p[method] > LEVEL / (len(others) - rejected):
            break
        found.append(method)
    return found


def table(
    measured: dict[str, dict[str, Gaps]],
    methods: list[str],
    better: dict[str, list[str]],
    worse: dict[str, list[str]],
) -> str:
    """Rows of methods: mean rank, functions where it is better or worse than the default, gaps."""
    names = [*measured]
    ranks = {
        name: rankdata([clipped(gaps[m]) for m in methods], axis=0).mean(axis=1)
        for name, gaps in measured.items()
    }
    head = ["", "mean rank", "better", "worse", *names]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for i, method in enumerate(methods):
        mean = np.mean([ranks[name][i] for name in names])
        wins, losses = (sum(method in on[name] for name in names) for on in (better, worse))
        medians = [np.median(measured[name][method], axis=1) for name in names]
        cells = [" / ".join(shown(value) for value in pair) for pair in medians]
        rows.append(f"| {method} | {mean:.1f} | {wins} | {losses} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shown(gap: float) -> str:
    """In thousandths."""
    return "0" if gap < SOLVED else f"{1000 * gap:.2g}" if gap < 0.1 else f"{1000 * gap:.0f}"


def write(page: Path, mark: str, body: str) -> None:
    """Replace what is between two marks."""
    before, rest = page.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    page.write_text(f"{before}<!-- {mark} -->\n{body}\n<!-- /{mark} -->{after}")


if __name__ == "__main__":
    main()
