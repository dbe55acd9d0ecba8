"""Compare two ranks with one: a run of forward mode with its tangents spread over processes.

    python examples/benchmarks/ranks.py --json ranks.json

A LeNet on random images of MNIST's shape, 10+10+10 windows of learning rate, momentum and weight
decay. Each rank is a process with one thread, so two ranks need two idle cores. Runs on one and on
two ranks alternate, and each ratio is of neighbouring runs. The time is that of the call of
``hypergradient``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mnist
import torch
from networks import NETWORKS, random_batches

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.distributed import hypergradient as spread
from optuna_hypergrad.distributed import join

VALUES = {"lr": 0.05, "momentum": 0.5, "weight_decay": 1e-4}
BATCHES = 8  # distinct batches, repeated


def measured(call: Any, steps: int, batch: int, windows: int) -> dict[str, Any]:
    """One run of LeNet in seconds, after a short run to warm up."""
    *batches, validation = random_batches(NETWORKS["lenet"], BATCHES + 1, batch, torch.float32)
    update = SGD(**{name: Schedule(name, [value] * windows) for name, value in VALUES.items()})

    def run(steps: int) -> tuple[float, dict[str, float]]:
        model = mnist.lenet(0)
        start = time.perf_counter()
        found = call(
            model,
            mnist.loss_fn,
            update,
            lambda step: batches[step % BATCHES],
            validation,
            steps=steps,
        )
        return time.perf_counter() - start, found.gradient

    run(windows)
    seconds, gradient = run(steps)
    return {"seconds": seconds, "gradient": gradient}


def rank(arguments: argparse.Namespace) -> None:
    """What each process does; rank 0 prints."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    alone = int(os.environ["WORLD_SIZE"]) == 1
    call = hypergradient if alone else spread
    found = measured(call, arguments.steps, arguments.batch, arguments.windows)
    if alone or join().is_first:
        print(json.dumps(found))


def started(ranks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run on this many ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "batch", "windows")]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", *options],
            env={**os.environ, **own, "OMP_NUM_THREADS": "1", "RANK": str(number)},
            stdout=subprocess.PIPE,
        )
        for number in range(ranks)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a rank has failed")
    return dict(json.loads(printed[0]))


def difference(one: dict[str, float], other: dict[str, float]) -> float:
    """Of two hypergradients, relative."""
    a, b = (torch.tensor([found[name] for name in one]).double() for found in (one, other))
    return float((a - b).norm() / a.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--windows", type=int, default=10, help="of each of three hyperparameters")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments)
        return
    alone, together, differences = [], [], []
    for _ in range(arguments.rounds):
        one, many = started(1, arguments), started(arguments.ranks, arguments)
        alone.append(one["seconds"])
        together.append(many["seconds"])
        differences.append(difference(one["gradient"], many["gradient"]))
    ratios = [a / b for a, b in zip(alone, together, strict=True)]
    found = {
        "ranks": arguments.ranks,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "hypers": "+".join([str(arguments.windows)] * len(VALUES)),
        "seconds": {"1": alone, str(arguments.ranks): together},
        "speedups": ratios,
        "speedup": statistics.median(ratios),
        "difference": max(differences),
    }
    print(
        f"one rank {statistics.median(alone):.2f} s, {arguments.ranks} ranks "
        f"{statistics.median(together):.2f} s: {found['speedup']:.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f}); gradients differ by {found['difference']:.1e}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
