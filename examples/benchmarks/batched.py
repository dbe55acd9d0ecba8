"""Measure runs computed as one beside the same runs one after the other.

The networks and batches of ``engine.py``: each run has weights and learning rates of its own. Both
ways in one process with one thread, interleaved, after one round of each; CPU times (unless on
another device), of which only ratios are meaningful:

    python examples/benchmarks/batched.py --networks mlp lenet --json batched.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import mnist
import torch
from engine_run import UPDATES
from networks import NETWORKS, device_name, random_batches

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import Hypergradient, hypergradient
from optuna_hypergrad.autodiff.batched.run_together import RunTogether

BATCHES = 8  # distinct batches, repeated
RATES = {"sgd": 0.05, "adamw": 1e-3}


def job(
    network: str, batch: int, steps: int, optimizer: str, trains: bool, device: str
) -> Callable[[int], Hypergradient]:
    """A run by its number: the result of the training."""
    kind = NETWORKS[network]
    *batches, validation = random_batches(kind, BATCHES + 1, batch, torch.float32, device)

    def run(number: int) -> Hypergradient:
        rate = RATES[optimizer] * (1 + number / 10)
        lr = Schedule("lr", [rate] * 7)
        return hypergradient(
            kind.make(number).to(device),
            mnist.loss_fn,
            UPDATES[optimizer](lr, weight_decay=Schedule("weight_decay", [1e-4])),
            batches,
            validation,
            steps=steps,
            mode="auto" if trains else "reverse",
            learn=() if trains else None,
        )

    return run


def now(device: str) -> float:
    """Seconds; on the CPU, of its time."""
    if device == "cpu":
        return time.process_time()
    torch.get_device_module(device).synchronize()
    return time.perf_counter()


def measured(
    run: Callable[[int], Hypergradient], n_runs: int, rounds: int, device: str
) -> dict[str, Any]:
    """Seconds of both ways, and how far their results differ."""
    together = RunTogether()
    seconds: dict[str, list[float]] = {"one by one": [], "batched": []}
    for _ in range(rounds + 1):
        began = now(device)
        alone = [run(number) for number in range(n_runs)]
        between = now(device)
        found = together(run, range(n_runs))
        seconds["one by one"].append(between - began)
        seconds["batched"].append(now(device) - between)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    pairs = list(zip(seconds["one by one"], seconds["batched"], strict=True))
    return {
        "seconds": seconds,
        "first batch": pairs[0][0] / pairs[0][1],
        "ratio": median(one / other for one, other in pairs[1:]),
        "loss off by": max(abs(a.loss / b.loss - 1) for a, b in zip(found, alone, strict=True)),
        "gradient off by": max(
            (
                abs(a.gradient[name] - value) / max(map(abs, b.gradient.values()))
                for a, b in zip(found, alone, strict=True)
                for name, value in b.gradient.items()
            ),
            default=0.0,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "lenet"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--optimizer", choices=UPDATES, default="sgd")
    parser.add_argument("--runs", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="without hypergradients")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for network in args.networks:
        run = job(network, args.batch, args.steps, args.optimizer, args.train, args.device)
        for n_runs in args.runs:
            case = {
                "network": network,
                "runs": n_runs,
                "batch": args.batch,
                "steps": args.steps,
                "optimizer": args.optimizer,
                "train": args.train,
            }
            found.append(case | measured(run, n_runs, args.rounds, args.device))
            one = found[-1]
            print(
                f"{network:12s} {n_runs:3d} runs, batches of {args.batch}, {args.steps} steps: "
                f"{one['ratio']:.2f} x faster (first batch {one['first batch']:.2f}), "
                f"loss off by {one['loss off by']:.0e}, gradient {one['gradient off by']:.0e}",
                flush=True,
            )
    if args.json is not None:
        before = json.loads(args.json.read_text())["runs"] if args.json.exists() else []
        machine = {"device": device_name(args.device), "torch": torch.__version__}
        args.json.write_text(json.dumps({**machine, "runs": before + found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
