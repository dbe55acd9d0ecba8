"""Reproduce Table 1, Figures 1 and 3 to 5 of the paper on long horizons, at equal compute.

Each cell, a job with a method and a seed, is a study in --storage, as in the arena: its trials
store what they cost in plain trainings of the job, it ends when they have cost --budget, and at 10
and 25 plain trainings and at its end the recommended hyperparameters are trained with five fresh
seeds and evaluated on test images that no search saw. Run again, only what is missing runs:

    python examples/paper/long_horizons.py --data DIR --storage sqlite:///long_horizons.db \\
        --jobs mnist --methods published --seeds 0 1 2 --budget 100

Methods: the paper's (published: sign steps, forward mode, Hessian products clipped;
published-reverse: the same in reverse mode; published-unclipped: nothing clipped), ours,
hand-tuned (the paper's grids), random, tpe, cmaes, gp, hyperband, greedy-online (Baydin et al.,
from random initial values), horizon-1 (greedy hypergradients, outer sign steps), unshared (one
learning rate for each step).

Jobs: mnist and svhn are the paper's; cifar10 is small enough for a CPU (16 × 16 pixels, 300 steps),
cifar10-full the paper's, for --device cuda; digits is small enough for many seeds, and needs no
data. Data as in the arena; SVHN is downloaded.
long_horizons_table.py makes the table and the figures.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "arena"))

from cells import Cell
from long_horizons_jobs import EXPERIMENTS
from long_horizons_methods import NAMES, method_of
from running import Options, run, run_all


def main() -> None:
    """Run the chosen cells."""
    args = parse_arguments()
    cells = [
        Cell(job, method, seed)
        for seed in args.seeds
        for job in args.jobs
        for method in args.methods
    ]
    options = Options(args.data, args.storage, args.budget, args.device)
    run_all(
        cells, partial(run_named, options=options, steps=args.steps), args.storage, args.workers
    )


def run_named(cell: Cell, options: Options, steps: int | None) -> None:
    """Run a cell by the names of its job and method."""
    method = method_of(cell.sampler, cell.job)
    job = EXPERIMENTS[cell.job].job(cell.job, method.windows, steps)
    run(cell, job, method.entry, options)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///long_horizons.db")
    parser.add_argument("--jobs", nargs="+", choices=EXPERIMENTS, help="by default the device's")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=25.0, help="plain trainings of a cell")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on its own cells")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, help="of a training, for a quick look")
    args = parser.parse_args()
    args.jobs = args.jobs or (
        ["cifar10-full"] if args.device == "cuda" else ["digits", "mnist", "cifar10"]
    )
    return args


if __name__ == "__main__":
    main()
