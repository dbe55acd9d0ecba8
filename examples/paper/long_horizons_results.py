"""What the stored studies of the long-horizons experiments hold, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import optuna
from cells import (
    ACCURACY,
    CLIPPED,
    ENVIRONMENT,
    JUDGED,
    PLAIN_SECONDS,
    STEPS,
    Cell,
    cost_of,
    spent,
    without_params,
)
from long_horizons_jobs import EXPERIMENTS
from long_horizons_methods import NAMES
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import read_gradient

SHOWN = 16  # parameters up to which those of every trial are kept


def read(storages: Sequence[str], before: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Everything that the table and the figures show, of cells in one or more databases.

    Cells that were read ``before`` stay, unless a database has them too.
    """
    studies = (
        optuna.load_study(study_name=name, storage=storage)
        for storage in storages
        for name in optuna.get_all_study_names(storage)
    )
    read_now = [as_json(study) for study in studies if spent(study)]  # others have only begun
    by_name = {(c["job"], c["method"], c["seed"]): c for c in [*before, *read_now]}
    cells = list(by_name.values())
    return {
        "jobs": {
            job: {"plain_seconds": plain_seconds(cells, job), "size": experiment.size}
            for job, experiment in EXPERIMENTS.items()
            if any(cell["job"] == job for cell in cells)
        },
        "cells": sorted(cells, key=lambda cell: (NAMES.index(cell["method"]), cell["seed"])),
    }


def as_text(found: dict[str, Any]) -> str:
    """The JSON with a line for each cell."""
    cells = ",\n".join(json.dumps(cell, allow_nan=False) for cell in found["cells"])
    jobs = json.dumps(found["jobs"], allow_nan=False)
    return f'{{"jobs": {jobs},\n"cells": [\n{cells}\n]}}\n'


def as_json(study: optuna.Study) -> dict[str, Any]:
    """A study: its costs, what it recommended, and its trials."""
    cell, trials = Cell.of(study.study_name), study.get_trials(deepcopy=False)
    steps, judged = study.user_attrs[STEPS], study.user_attrs.get(JUDGED, {})
    advice = judged[max(judged, key=float)]["params"] if judged else {}
    return {
        "job": cell.job,
        "method": cell.sampler,
        "seed": cell.seed,
        "steps": steps,
        "command": command(cell, steps, judged),
        "environment": study.user_attrs[ENVIRONMENT],
        "plain_trainings": round(sum(map(cost_of, trials)), 2),
        "cpu_seconds": round(sum(map(cpu_seconds, trials)), 1),
        "judged": {budget: without_params(one) for budget, one in judged.items()},
        "recommended": rounded(advice),
        "trials": [trial_as_json(t) for t in trials if t.state == TrialState.COMPLETE],
    }


def command(cell: Cell, steps: int, judged: Mapping[str, Any]) -> str:
    """The command that runs a cell."""
    parts = ["python examples/paper/long_horizons.py --data DIR --storage STORAGE"]
    parts.append(f"--jobs {cell.job} --methods {cell.sampler} --seeds {cell.seed}")
    if judged:
        parts.append(f"--budget {max(judged, key=float)}")
    if EXPERIMENTS[cell.job].is_for_gpu:
        parts.append("--device cuda")
    if steps != EXPERIMENTS[cell.job].steps:
        parts.append(f"--steps {steps}")
    return " ".join(parts)


def cpu_seconds(trial: FrozenTrial) -> float:
    """Of a trial; 0 while it runs."""
    return cost_of(trial) * float(trial.user_attrs.get(PLAIN_SECONDS, 0.0))


def trial_as_json(trial: FrozenTrial) -> dict[str, Any]:
    """Cost, loss and accuracy, and of few parameters their values and hypergradients."""
    found: dict[str, Any] = {
        "cost": round(cost_of(trial), 3),
        "loss": trial.value,
        "accuracy": trial.user_attrs.get(ACCURACY),
    }
    if CLIPPED in trial.user_attrs:
        found["clipped"] = trial.user_attrs[CLIPPED]
    if len(trial.params) <= SHOWN:
        found["params"] = rounded(trial.params)
        gradient = read_gradient(trial)
        if gradient is not None:
            found["gradient"] = rounded({name: gradient[name] for name in gradient})
    return found


def rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    """Values with six digits; None where they are not finite, which JSON cannot hold."""
    return {n: float(f"{v:.6g}") if np.isfinite(v) else None for n, v in values.items()}


def plain_seconds(cells: list[dict[str, Any]], job: str) -> float:
    """Of a job's plain training, the median over its cells."""
    own = [cell for cell in cells if cell["job"] == job]
    return round(median(cell["cpu_seconds"] / cell["plain_trainings"] for cell in own), 3)
