"""Searches over hundreds of hyperparameters; Optuna's samplers get ten times the compute.

Each script of this folder describes a job and calls ``main``. Cells, a method with a seed, are run
and judged as in the arena, but their studies are in memory: a database would commit every one of
the hundreds of parameters that the other samplers need. What a cell found is added to the job's
JSON, and a cell that is there does not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "arena"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import numpy as np
import optuna
import torch
from cells import COST, JUDGED, PLAIN_SECONDS, Cell, advice, fresh, without_params
from jobs import Job, loaded
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, TrialState
from results import standard_error
from running import Options, environment, run
from training import Training

from optuna_hypergrad import suggest_array
from samplers import Entry, gradient, plain

RESULTS = Path(__file__).parent / "results"
FACTOR = 10  # by which the other samplers have more compute
Array = NDArray[np.float32]


def suggest_each(
    trial: BaseTrial, name: str, low: float, high: float, shape: Any, **options: Any
) -> Array:
    """The same array as that of ``suggest_array``, of one float for each entry."""
    log = bool(options.get("log"))  # the others say where and how descent moves
    indices = np.ndindex(shape if isinstance(shape, tuple) else (shape,))
    names = (f"{name}_{'_'.join(map(str, index))}" for index in indices)
    values = [trial.suggest_float(one, low, high, log=log) for one in names]
    return np.array(values, dtype=np.float32).reshape(shape)


def suggested(trial: BaseTrial, name: str, *args: Any, **options: Any) -> Array:
    """The array of a finished trial, of ours or of another sampler."""
    suggests = suggest_array if name in trial.params else suggest_each
    return suggests(trial, name, *args, **options)


@dataclass(frozen=True, eq=False)
class ManyJob(Job):
    """A job with many hyperparameters, whose ``suggest`` gets what suggests arrays of them.

    Args:
        describe: What else is to be known of a trial, such as how well it found the bad examples.
        references: Trainings to compare with, by name.
    """

    describe: Callable[[FrozenTrial], Mapping[str, float]] = lambda trial: {}
    references: Mapping[str, Callable[[], Training]] = field(default_factory=dict)

    def entry(self, method: str) -> Entry:
        """How a method searches for the job."""
        if method != "ours":
            return Entry(OTHERS[method], rates=suggest_each)
        return Entry(
            gradient(), rates=suggest_array, is_gradient=True, has_start=True, is_smoothed=True
        )

    def _start(self, name: str, distribution: FloatDistribution) -> float:
        """Where an entry starts: at the value of its array."""
        array = name.split("_")[0]
        return super()._start(array if array in self.start else name, distribution)

    def plain_training(self) -> Training:
        """The training at the start."""
        return self.suggest(FixedTrial(self.start_values(suggest_each)), suggest_each)


OTHERS = {
    "random": plain(RandomSampler),
    "tpe": plain(TPESampler),
    "cmaes": plain(CmaEsSampler, warn_independent_sampling=False),
}
METHODS = ("ours", *OTHERS)


def main(job: ManyJob, steps: str) -> None:
    """Run the chosen cells of a job and write its JSON; ``steps`` says what a training is."""
    parser = argparse.ArgumentParser(description=f"Searches on {job.name}: {steps}.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=50.0, help="plain trainings of ours")
    parser.add_argument("--output", type=Path, help="by default results/JOB.json beside the script")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    output = args.output or RESULTS / f"{job.name}.json"
    for seed in args.seeds:
        for method in args.methods:
            add(output, job, Cell(job.name, method, seed), args.data, args.budget)
    print(table(json.loads(output.read_text())))


def add(output: Path, job: ManyJob, cell: Cell, data: Path, budget: float) -> None:
    """Run a cell, unless it is known, and add what it found."""
    known = json.loads(output.read_text()) if output.exists() else {"cells": {}, "references": {}}
    if f"{cell.sampler}/{cell.seed}" in known["cells"]:
        return
    entry = job.entry(cell.sampler)
    own_budget = budget if cell.sampler == "ours" else FACTOR * budget
    study = run(cell, job, entry, Options(data, None, own_budget, "cpu"))
    found = _found(study, job, advice(study.trials, entry)[0])
    # Another process may have added a cell meanwhile.
    known = json.loads(output.read_text()) if output.exists() else known
    for name, training in job.references.items():
        if name not in known["references"]:
            known["references"][name] = reference(job, training(), data)
    known["environment"] = environment("cpu")
    known["command"] = f"python examples/many/{job.name}.py --budget {budget:g}"
    known["dimensions"] = len(job.distributions(suggest_each))
    known["cells"][f"{cell.sampler}/{cell.seed}"] = found
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(known, indent=1) + "\n")


def _found(study: optuna.Study, job: ManyJob, chosen: FrozenTrial) -> dict[str, Any]:
    """What is kept of a study: judgements, and losses by cost."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    judged = study.user_attrs[JUDGED].items()
    return {
        "judged": {at: without_params(one) for at, one in judged},
        "costs": [round(float(t.user_attrs[COST]), 3) for t in complete],
        "values": [round(float(t.value), 5) for t in complete],
        "plain_seconds": float(np.median([t.user_attrs[PLAIN_SECONDS] for t in complete])),
        "best": dict(job.describe(chosen)),
        "arrays": _arrays(chosen, job),
    }


def _arrays(trial: FrozenTrial, job: ManyJob) -> dict[str, Any]:
    """The arrays of a trial by name."""
    found: dict[str, Any] = {}

    def recorded(trial: BaseTrial, name: str, *args: Any, **options: Any) -> Array:
        values = suggested(trial, name, *args, **options)
        found[name] = np.round(values.astype(float), 4).tolist()
        return values

    job.suggest(trial, recorded)
    return found


def reference(job: ManyJob, training: Training, root: Path) -> dict[str, Any]:
    """Test losses and accuracies of a training with fresh seeds."""
    fixed = ManyJob(job.name, lambda trial, rates: training, job.data)
    return without_params(fresh(fixed, fixed.entry("random"), loaded(job.data, root), _EMPTY))


_EMPTY = optuna.trial.create_trial(value=0.0)


def table(results: Mapping[str, Any]) -> str:
    """A table of test losses and accuracies as Markdown."""
    lines = ["| method | plain trainings | seeds | test loss | accuracy |", "| --- " * 5 + "|"]
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    cells = in_order(results["cells"])
    for name, cell in cells.items():
        method, _, _ = name.partition("/")
        for at, judged in cell["judged"].items():
            rows.setdefault((method, at), []).append(judged)
    for (method, at), judged in rows.items():
        lines.append(f"| {method} | {at} | {len(judged)} | {_mean(judged)} |")
    for name, one in results["references"].items():
        lines.append(f"| {name} | | | {_mean([one])} |")
    return "\n".join([*lines, "", *_described(cells)])


def in_order(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Cells by method and seed."""

    def place(name: str) -> tuple[int, int]:
        method, _, seed = name.partition("/")
        return METHODS.index(method), int(seed)

    return {name: cells[name] for name in sorted(cells, key=place)}


def _described(cells: Mapping[str, Any]) -> list[str]:
    """What else is known of the chosen trial of each cell, as a line for each method."""
    by_method: dict[str, list[Mapping[str, float]]] = {}
    for name, cell in cells.items():
        by_method.setdefault(name.partition("/")[0], []).append(cell["best"])
    return [
        f"Chosen trial of {method}: "
        + "; ".join(f"{key} {', '.join(f'{one[key]:.3f}' for one in found)}" for key in found[0])
        for method, found in by_method.items()
        if found[0]
    ]


def _mean(judged: list[Mapping[str, Any]]) -> str:
    losses = [fmean(one["losses"]) for one in judged]
    spread = f" ± {standard_error(losses):.3f}" if len(losses) > 1 else ""
    accuracies = [fmean(one["accuracies"]) for one in judged if one["accuracies"]]
    accuracy = f"{fmean(accuracies):.1%}" if accuracies else ""
    return f"{fmean(losses):.3f}{spread} | {accuracy}"
