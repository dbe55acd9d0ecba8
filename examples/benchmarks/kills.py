"""Kill workers with SIGKILL at random moments, and count what their studies lose.

On each storage, with each sampler, three workers run and are replaced as they die; then two new
ones continue the study, without repair. The environment names the servers, see databases.py:

    python examples/benchmarks/kills.py --kills 200 --json kills.json
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Timer

import optuna
from kills_losses import losses
from kills_worker import MOMENTS, Place, work
from optuna.artifacts import FileSystemArtifactStore

from databases import KINDS, PROCESSES, Address, connect, disconnect, fresh, is_named

SAMPLERS = ("gradient", "population")
ANY_TIME = "any time"  # killed from outside
N_WORKERS = 3
UNHARMED = ("crashed", "places", "doubled", "dangling")  # what must stay zero


def kill_workers(place: Place, kills: int, rng: random.Random) -> Counter[str]:
    """Run workers until this many are dead.

    Returns:
        The number that died at each moment; ``"crashed"`` counts those that ended otherwise.
    """
    ended: Counter[str] = Counter()
    running: dict[int, tuple[BaseProcess, str]] = {}
    for _ in range(kills):
        if len(running) == N_WORKERS:
            _await_death(running, ended)
        moment = rng.choice([*MOMENTS, ANY_TIME])
        worker = PROCESSES.Process(target=work, args=(place, moment, rng.randint(1, 3), None))
        worker.start()
        running[worker.sentinel] = worker, moment
        if moment == ANY_TIME:
            Timer(rng.uniform(0, 2), worker.kill).start()
    while running:
        _await_death(running, ended)
    return ended


def _await_death(running: dict[int, tuple[BaseProcess, str]], ended: Counter[str]) -> None:
    dead = wait([*running], timeout=300)
    if not dead:
        raise TimeoutError(f"no worker has died for 300 s; they run: {[*running.values()]}.")
    for sentinel in dead:
        worker, moment = running.pop(sentinel)
        worker.join()
        ended[moment if worker.exitcode == -signal.SIGKILL else "crashed"] += 1


def continue_study(place: Place, n_trials: int) -> int:
    """Run this many trials in each new worker; return the number of workers that fail."""
    workers = [PROCESSES.Process(target=work, args=(place, "never", 1, n_trials)) for _ in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
        worker.kill()
    return sum(worker.exitcode != 0 for worker in workers)


def measure(address: Address, sampler: str, kills: int, seed: int, n_trials: int) -> dict[str, int]:
    """Deaths by moment, and losses, of one study that continues for 2 × ``n_trials`` trials."""
    storage = connect(address)
    study = optuna.create_study(study_name=sampler, storage=storage)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(address, folder, sampler)
        ended = kill_workers(place, kills, random.Random(f"{seed} {address.kind} {sampler}"))
        ended["crashed"] += continue_study(place, n_trials)
        found = {**ended, **losses(study, FileSystemArtifactStore(folder))}
    disconnect(storage)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="over all storages and samplers")
    parser.add_argument("--storages", nargs="+", choices=KINDS, default=[*filter(is_named, KINDS)])
    parser.add_argument("--trials", type=int, default=15, help="of each worker afterwards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = [(kind, sampler) for kind in args.storages for sampler in SAMPLERS]
    columns = [*MOMENTS, ANY_TIME, "trials", *UNHARMED]
    print(f"{'':22}" + "".join(f"{column:>14}" for column in columns))
    total: Counter[str] = Counter()
    found = {}
    for i, (kind, sampler) in enumerate(cells):
        kills = args.kills // len(cells) + (i < args.kills % len(cells))
        with fresh(kind) as address:
            found[f"{kind}, {sampler}"] = row = measure(
                address, sampler, kills, args.seed, args.trials
            )
        total.update(row)
        _print_row(f"{kind}, {sampler}", row, columns)
    _print_row("total", total, columns)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))
    if total["trials"] > args.kills or any(total[c] for c in UNHARMED):
        sys.exit("the study has losses")


def _print_row(name: str, row: dict[str, int], columns: list[str]) -> None:
    print(f"{name:22}" + "".join(f"{row.get(column, 0):14}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
