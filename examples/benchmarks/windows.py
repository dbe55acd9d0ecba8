"""Compare fixed windows with ``windows="auto"``: losses of searches on MNIST.

LeNet, 200 steps, learning rates in 1, 2, 4, 8 or 16 windows or as the sampler chooses, momentum
and weight decay, all starting from zero; every trial has its own initial weights and batches.

    python examples/benchmarks/windows.py --data-root DIR

DIR holds mnist.npz, or receives torchvision's download. Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal

import mnist
import optuna
import torch
from networks import device_name

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule, trial_seed
from optuna_hypergrad.autodiff import SGD, hypergradient

BATCH_SIZE = 128
Windows = int | Literal["auto"]


def search(
    data: mnist.Batch,
    validation: list[mnist.Batch],
    windows: Windows,
    seed: int,
    trials: int,
    steps: int,
) -> dict[str, Any]:
    """Losses of one study, and the number of windows of the learning rate that moved separately."""

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=windows)
        momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
        weight_decay = suggest_schedule(trial, "weight_decay", 0.0, 4e-3)
        own = trial_seed(trial)
        result = hypergradient(
            mnist.lenet(own).to(data[0].device),
            mnist.loss_fn,
            SGD(lr, momentum=momentum, weight_decay=weight_decay),
            mnist.random_batches(data, own, steps, BATCH_SIZE),
            validation,
            steps=steps,
            mode="reverse",
            estimate="exact",
        )
        report_hypergradient(trial, result.gradient)
        return result.loss

    sampler = GradientSampler(seed=seed, strategy="sign_descent", stop_when_converged=False)
    study = optuna.create_study(sampler=sampler)
    cuts = []
    for _ in range(trials):
        study.optimize(objective, n_trials=1)
        widths = sampler.chains(study)[0].windows.get("lr", ())
        cuts.append(len(widths) if windows == "auto" else windows)
    losses = [math.nan if t.value is None else t.value for t in study.trials]
    return {"windows": windows, "seed": seed, "losses": losses, "cuts": cuts}


def settled(losses: list[float]) -> float:
    """Median of the last four trials, which is less noisy than the last."""
    return median(math.inf if math.isnan(loss) else loss for loss in losses[-4:])


def best(losses: list[float]) -> float:
    return min(filter(math.isfinite, losses))


def table(results: list[dict[str, Any]]) -> str:
    """Means over seeds, ± the deviation of one seed."""
    rows = ["| windows | best of all trials | median of the last four | windows used |"]
    rows += ["| --- | --- | --- | --- |"]
    for windows in dict.fromkeys(result["windows"] for result in results):
        own = [result for result in results if result["windows"] == windows]
        cells = [_spread([score(r["losses"]) for r in own]) for score in (best, settled)]
        used = sorted(cut for result in own for cut in result["cuts"])
        span = f"{used[0]} to {used[-1]}" if used[0] != used[-1] else str(used[0])
        rows.append(f"| {windows} | {cells[0]} | {cells[1]} | {span} |")
    return "\n".join(rows)


def _spread(values: list[float]) -> str:
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", default=["1", "2", "4", "8", "16", "auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the losses here")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data, validation = mnist.load(args.data_root, args.device)
    results = []
    for seed in args.seeds:
        for given in args.windows:
            windows: Windows = "auto" if given == "auto" else int(given)
            result = search(data, validation, windows, seed, args.trials, args.steps)
            trace = " ".join(f"{loss:4.2f}" for loss in result["losses"])
            print(f"seed {seed}  {given:>4} windows  {trace}", flush=True)
            results.append(result)
    if args.json is not None:
        name = device_name(args.device)
        record = {"device": name, "torch": torch.__version__, "results": results}
        args.json.write_text(json.dumps(record, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
