"""Samplers against each other on real trainings, at equal compute, judged on fresh seeds.

Every cell, a job with a sampler and a seed, is a study in --storage, named job/sampler/seed. Its
trials store what they cost, in plain trainings: CPU seconds over those of a plain training, which
is timed again and again. A cell ends when its trials have cost --budget; run again, only what is
missing runs. At 10, 25, 50 and 500 plain trainings, as far as the budget reaches, and at its end,
the recommended hyperparameters are trained with five fresh seeds and evaluated on test data:

    python examples/arena/arena.py --data DIR --storage sqlite:///arena.db \\
        --jobs digits-sgd digits-adam --samplers random tpe ours --seeds 0 1 2 --workers 2

With --device cuda the jobs are larger networks, and their costs seconds on the clock; give these a
storage of their own.

DIR holds mnist.npz and cifar10_jpeg.npz (downloaded otherwise), ptb.valid.txt, ptb.test.txt and
tinyshakespeare.txt, as far as the jobs need them. table.py makes the tables from stored studies.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from catalogue import JOBS
from cells import Cell
from jobs import Job, cosine_rates
from running import Options, run, run_all

from samplers import OPTIONAL, SAMPLERS, Entry


def main() -> None:
    """Run the chosen cells."""
    args = parse_arguments()
    cells = [
        Cell(job, sampler, seed)
        for seed in args.seeds
        for job in args.jobs
        for sampler in args.samplers
        if is_possible(JOBS[job], SAMPLERS[sampler])
    ]
    options = Options(args.data, args.storage, args.budget, args.device)
    run_all(cells, partial(run_named, options=options), args.storage, args.workers)


def is_possible(job: Job, entry: Entry) -> bool:
    """Whether the sampler has a meaning for the job."""
    if job.for_gradients_only and not entry.is_gradient:
        return False
    return job.has_schedule or entry.rates is not cosine_rates


def run_named(cell: Cell, options: Options) -> None:
    """Run a cell by the names of its job and sampler."""
    run(cell, JOBS[cell.job], SAMPLERS[cell.sampler], options)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    usual = [name for name in SAMPLERS if name not in OPTIONAL]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///arena.db")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, help="by default those of the device")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=usual)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=50.0, help="plain trainings of a cell")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on its own cells")
    args = parser.parse_args()
    of_device = [name for name, job in JOBS.items() if job.is_for_gpu == (args.device == "cuda")]
    args.jobs = args.jobs or of_device
    return args


if __name__ == "__main__":
    main()
