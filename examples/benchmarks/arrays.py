"""What many hyperparameters cost: in the study, and in the engine.

Study: seconds of a trial beyond its training, on a storage, of an array of N entries and, as far as
--floats allows, of N floats; the median of the last half of the trials. Engine: a training with the
hypergradient of an array of N entries, in trainings with that of a single number (CPU time,
interleaved, medians).

    python examples/benchmarks/arrays.py --sizes 100 1000 10000 --trials 100 --json arrays.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from optuna.storages import InMemoryStorage, RDBStorage
from torch import Tensor, nn

from optuna_hypergrad import report_hypergradient, suggest_array
from optuna_hypergrad.autodiff import SGD, hypergradient

STEPS, BATCH, ROUNDS = 200, 64, 5


def seconds_of_trials(storage: Any, size: int, trials: int, is_array: bool) -> float:
    """Median seconds of the last half of some trials whose objective computes next to nothing."""
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    target, seconds = np.linspace(0, 1, size), list[float]()
    for _ in range(trials):
        start = time.perf_counter()
        trial = study.ask()
        if is_array:
            x = suggest_array(trial, "x", 0.0, 1.0, size)
            report_hypergradient(trial, {"x": x - target})
        else:
            x = np.array([trial.suggest_float(f"x_{i}", 0.0, 1.0) for i in range(size)])
        study.tell(trial, float(((x - target) ** 2).mean()))
        seconds.append(time.perf_counter() - start)
    return median(seconds[trials // 2 :])


def weighted(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
    """Cross entropy with weights of examples, or one for all."""
    x, y, index = batch
    weight = hypers["weight"]
    chosen = weight[index] if weight.numel() > 1 else weight
    return (chosen * F.cross_entropy(model(x), y, reduction="none")).mean()


def training(size: int) -> float:
    """CPU seconds of a training of a small network with the hypergradient of an array."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(max(size, BATCH), 64, generator=draws), torch.arange(max(size, BATCH)) % 10
    chosen = torch.randint(len(x), (STEPS, BATCH), generator=draws)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 10))
    start = time.process_time()
    hypergradient(
        model,
        weighted,
        SGD(0.1, momentum=0.9),
        lambda step: (x[chosen[step]], y[chosen[step]], chosen[step]),
        (x[:BATCH], y[:BATCH], torch.arange(BATCH)),
        steps=STEPS,
        hypers={"weight": np.ones(size, np.float32)},
        mode="reverse",
    )
    return time.process_time() - start


def in_single_numbers(sizes: list[int]) -> dict[str, float]:
    """The price of hypergradients of arrays by size, in that of a single number."""
    training(1)  # warms up
    found: dict[int, list[float]] = {1: []} | {size: [] for size in sizes}
    for _ in range(ROUNDS):
        for size, seconds in found.items():
            seconds.append(training(size))
    return {str(size): median(found[size]) / median(found[1]) for size in sizes}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 1_000, 10_000])
    parser.add_argument("--floats", type=int, default=1_000, help="largest number of floats")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for kind in ("memory", "sqlite"):
        for size in args.sizes:
            for is_array in (True, False):
                if not is_array and size > args.floats:
                    continue
                trials = args.trials if is_array else min(args.trials, 6)
                if kind == "memory":
                    found = seconds_of_trials(InMemoryStorage(), size, trials, is_array)
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        storage = RDBStorage(f"sqlite:///{folder}/study.db")
                        found = seconds_of_trials(storage, size, trials, is_array)
                        storage.engine.dispose()
                row = {"storage": kind, "entries": size, "trials": trials, "seconds": found}
                rows.append({**row, "as": "array" if is_array else "floats"})
                what = "an array" if is_array else "floats"
                print(f"{kind}: {size} entries as {what}: {found:.4f} s a trial", flush=True)
    prices = in_single_numbers(args.sizes)
    print("hypergradients of arrays, in that of one number:", prices)
    if args.json:
        versions = {"torch": torch.__version__, "optuna": optuna.__version__}
        found_all = {"machine": platform.machine(), **versions, "study": rows, "engine": prices}
        args.json.write_text(json.dumps(found_all, indent=1) + "\n")


if __name__ == "__main__":
    main()
