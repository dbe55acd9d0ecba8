"""Measure both modes of the engine beside the published method and plain training.

LeNet, WRN-16-1, and smaller networks of other kinds, on noise of the shapes of MNIST, CIFAR and
scikit-learn's digits, with SGD's learning rates, momenta and weight decays in windows ("7+1+1":
seven, one and one):

    python examples/benchmarks/engine.py --json engine.json

Each run has its own process with one thread. Rounds are interleaved; only ratios of times to plain
training of the same round are meaningful, or better, those of runs between two plain ones in one
process (``--turns 5``). ``docs/engine_measured.md`` has the results and their commands. ``--read``
prints the table of earlier runs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from engine_run import METHODS, VALUES, Job
from networks import NETWORKS, device_name

Measured = dict[str, Any]
# What distinguishes cases.
CASE = ("network", "batch", "steps", "hypers", "dtype", "memory", "optimizer", "trial", "device")
# Of files from before these were distinguished.
DEFAULTS = {"optimizer": "sgd", "trial": 1, "device": "cpu"}
MOVED = 0.15  # relative changes of a ratio below this are noise
COLUMNS = (
    *("network", "batch", "T", "hyperparameters", "method", "× plain", "MB", "MB over plain"),
    "gradient off by",
)


def run(job: Job) -> Measured:
    """Run one job in its own process."""
    script = Path(__file__).with_name("engine_run.py")
    command = [sys.executable, str(script), json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} ended with {done.returncode}: {done.stderr}")
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def by_case(runs: list[Measured]) -> dict[tuple[Any, ...], list[Measured]]:
    """The runs of each case."""
    cases: dict[tuple[Any, ...], list[Measured]] = {}
    for one in runs:
        key = tuple(one.get(name, DEFAULTS.get(name)) for name in CASE)
        cases.setdefault(key, []).append(one)
    return cases


def rows(runs: list[Measured]) -> Iterator[tuple[str, ...]]:
    """A row of the table for each method of each case."""
    for key, case in by_case(runs).items():
        for method in dict.fromkeys(one["method"] for one in case):
            yield (*map(str, key[:4]), method, *_cells(case, method))


def _cells(case: list[Measured], method: str) -> Iterator[str]:
    own, plain = of_method(case, method), of_method(case, "plain")
    yield f"{over(own, plain):.2f}" if plain else ""
    own_bytes, plain_bytes = (memory(some) / 1e6 if some else math.nan for some in (own, plain))
    yield f"{own_bytes:.1f}"
    yield f"{own_bytes - plain_bytes:.1f}" if plain else ""
    yield f"{difference(own[0], case):.1e}" if difference(own[0], case) is not None else ""


def of_method(case: list[Measured], method: str) -> list[Measured]:
    """The rounds of one method."""
    return [one for one in case if one["method"] == method]


def over(own: list[Measured], plain: list[Measured]) -> float:
    """Time relative to plain training: the median over turns in one process, else over rounds."""
    ratios = [ratio for one in own for ratio in one.get("ratios", [])]
    if not ratios:
        pairs = zip(own, plain, strict=False)
        ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
    return median(ratios) if ratios else math.nan


def memory(rounds: list[Measured]) -> float:
    return max(one["bytes"] for one in rounds)


def difference(one: Measured, case: list[Measured]) -> float | None:
    """Largest relative difference of an entry of the hypergradient from the baseline's."""
    expected = next((other["gradient"] for other in of_method(case, "baseline")), None)
    if expected is None or one["method"] in ("plain", "baseline"):
        return None
    pairs = [(one["gradient"][name], value) for name, value in expected.items()]
    return max(abs(found - value) / abs(value) if found != value else 0.0 for found, value in pairs)


def moved(runs: list[Measured], earlier: list[Measured]) -> Iterator[str]:
    """What takes another multiple of plain training than in earlier runs of the same case."""
    before = by_case(earlier)
    for key, case in by_case(runs).items():
        for method in dict.fromkeys(one["method"] for one in case):
            was, now = (
                over(of_method(some, method), of_method(some, "plain"))
                for some in (before.get(key, []), case)
            )
            if abs(now - was) > MOVED * was:
                yield f"{' '.join(map(str, key[:4]))} {method}: {was:.2f} -> {now:.2f}"


def table(runs: list[Measured]) -> str:
    """In Markdown."""
    cells = [COLUMNS, ("---",) * len(COLUMNS), *rows(runs)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """All rounds of a case, before the next case."""
    given = {
        name: getattr(args, name)
        for name in ("batch", "dtype", "memory", "optimizer", "trial", "turns", "device")
    }
    for network, steps, hypers in product(args.networks, args.steps, args.hypers):
        for _, method in product(range(args.rounds), args.methods):
            yield Job(network, hypers, steps, method, **given)


def run_all(args: argparse.Namespace) -> list[Measured]:
    """Run all jobs, and write the results after each."""
    machine = {"device": device_name(args.device), "torch": torch.__version__}
    runs = []
    for job in jobs(args):
        runs.append(run(job))
        print(f"{job} took {runs[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps({**machine, "runs": runs}, indent=1))
    return runs


def read(files: list[Path]) -> list[Measured]:
    """The runs of several files."""
    return [one for file in files for one in json.loads(file.read_text())["runs"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", nargs="+", type=int, default=[60])
    parser.add_argument("--hypers", nargs="+", default=["7+1+1", "10+10+10"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--memory", type=int, help="bytes that reverse mode may keep")
    parser.add_argument("--optimizer", choices=VALUES, default="sgd")
    parser.add_argument("--trial", type=int, default=1, help="2: after the same in its process")
    parser.add_argument(
        "--turns", type=int, default=0, help="runs between plain ones, for the ratio"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--read", type=Path, nargs="+", help="figures that were written earlier")
    parser.add_argument("--against", type=Path, nargs="+", default=[], help="print what moved")
    args = parser.parse_args()
    runs = read(args.read) if args.read else run_all(args)
    print(table(runs))
    for line in moved(runs, read(args.against)):
        print(line)


if __name__ == "__main__":
    main()
