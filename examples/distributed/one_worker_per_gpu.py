"""Start one worker for each GPU of this machine, or a number of workers on its CPU.

    export STUDY_STORAGE=postgresql+psycopg://user:password@host/database
    python one_worker_per_gpu.py --trials 96
    python one_worker_per_gpu.py --workers 4 --trials 96

Each worker sees only its own GPU (CUDA_VISIBLE_DEVICES), as "cuda:0". If that variable is already
set, as under SLURM, its GPUs are distributed. On a CPU, workers get equal parts of the threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from shared_objective import open_study, storage_url

WORKER = Path(__file__).with_name("worker.py")


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name.strip() for name in visible.split(",") if name.strip()]


def environments(workers: int | None) -> list[dict[str, str]]:
    """The variables that differ between the workers' environments."""
    if workers is None and (found := gpus()):
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in found]
    count = workers or 1
    threads = max((os.cpu_count() or 1) // count, 1)
    return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}] * count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, help="on the CPU; default: one for each GPU")
    parser.add_argument("--trials", type=int, default=24, help="of all workers together")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    if "STUDY_STORAGE" not in os.environ:
        parser.error("set STUDY_STORAGE to the URL of the storage")
    open_study(storage_url())  # before the workers, which would all create it at once
    command = [sys.executable, str(WORKER), "--trials", str(args.trials)]
    workers = [
        subprocess.Popen(command, env={**os.environ, **own}) for own in environments(args.workers)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit(f"{sum(map(bool, codes))} of {len(codes)} workers failed.")


if __name__ == "__main__":
    main()
