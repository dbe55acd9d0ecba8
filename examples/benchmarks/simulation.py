"""A thousand workers and a hundred thousand trials in one process, in virtual time.

Workers of uneven speed ask, finish, fail, are pruned and vanish. The output is the sampler's time
per trial (in ``before_trial``, ``sample_relative`` and ``after_trial``) by the number of earlier
trials, and errors in the final lineage. The time in which Optuna's storage copies its list of all
trials at each read is given separately:

    python examples/benchmarks/simulation.py --workers 1000 --trials 100000
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from optuna_hypergrad import GradientSampler, PopulationSampler, report_hypergradient
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.segments import read_segment

NAMES = ("x", "y", "z")
FAILS, PRUNED, VANISHED = 0.02, 0.02, 0.001  # probabilities of the outcomes of a trial

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda workers: RandomSampler(seed=0),
    "gradient": lambda workers: GradientSampler(
        seed=0, strategy="sign_descent", tolerance=0.0, stop_when_converged=False
    ),
    "population": lambda workers: PopulationSampler(seed=0, population_size=workers),
}


class Timed:
    """Wraps a sampler; records the seconds per trial in its methods and in their reads."""

    def __init__(self, sampler: BaseSampler, storage: BaseStorage) -> None:
        self.seconds: Counter[int] = Counter()
        self.reading: Counter[int] = Counter()
        self._read = 0.0
        get_all_trials = storage.get_all_trials

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            trials = get_all_trials(*arguments, **options)
            self._read += time.perf_counter() - began
            return trials

        storage.get_all_trials = timed  # type: ignore[method-assign]
        for name in ("before_trial", "infer_relative_search_space", "sample_relative"):
            setattr(sampler, name, self._timed(getattr(sampler, name)))
        sampler.after_trial = self._timed(sampler.after_trial)  # type: ignore[method-assign]

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(study: optuna.Study, trial: Any, *arguments: Any) -> Any:
            began, self._read = time.perf_counter(), 0.0
            try:
                return method(study, trial, *arguments)
            finally:
                self.seconds[trial.number] += time.perf_counter() - began - self._read
                self.reading[trial.number] += self._read

        return timed


def simulate(study: optuna.Study, n_workers: int, n_trials: int) -> None:
    """Run trials in the order in which workers of uneven speed would finish them."""
    rng = np.random.default_rng(0)
    speed = rng.lognormal(0.0, 0.5, n_workers)
    ends: list[tuple[float, int, optuna.Trial]] = []
    for worker in range(n_workers):
        heapq.heappush(ends, (0.0, worker, _begin(study)))
    for _ in range(n_trials - n_workers):
        now, worker, trial = heapq.heappop(ends)
        _end(study, trial, rng)
        end = now + speed[worker] * rng.lognormal(0.0, 0.3)
        heapq.heappush(ends, (end, worker, _begin(study)))


def _begin(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    for name in NAMES:
        trial.suggest_float(name, -1, 1)
    return trial


def _end(study: optuna.Study, trial: optuna.Trial, rng: np.random.Generator) -> None:
    outcome = rng.random()
    if outcome < VANISHED:
        return
    if outcome < VANISHED + FAILS:
        study.tell(trial, state=TrialState.FAIL)
    elif outcome < VANISHED + FAILS + PRUNED:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        gradient = {name: 2 * (value - 0.3) + rng.normal() for name, value in trial.params.items()}
        report_hypergradient(trial, gradient)
        study.tell(trial, sum((value - 0.3) ** 2 for value in trial.params.values()))


def collisions(study: optuna.Study) -> dict[str, int]:
    """Errors in the lineage: steps decided twice, segments missing."""
    trials = study.get_trials(deepcopy=False)
    wrong = Counter({"decided twice": 0, "missing parents": 0, "gaps": 0})
    decisions: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    filled: set[tuple[int, int]] = set()
    last_generation: Counter[int] = Counter()
    for trial in trials:
        claim = read_claim(trial.number, trial.system_attrs)
        segment = read_segment(trial.number, trial.system_attrs)
        parent = [segment.parent] if segment and segment.parent is not None else []
        before = claim.used if claim else parent
        wrong["missing parents"] += sum(not trials[number].state.is_finished() for number in before)
        if claim:
            decisions.setdefault((claim.chain, claim.step), set()).add(claim.used)
        if segment and segment.member is not None:
            last_generation[segment.member] = max(
                last_generation[segment.member], segment.generation
            )
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                filled.add((segment.member, segment.generation))
    wrong["decided twice"] = sum(len(used) - 1 for used in decisions.values())
    wrong["gaps"] = sum(
        (member, generation) not in filled
        for member, last in last_generation.items()
        for generation in range(last)
    )
    return dict(wrong)


@contextmanager
def _quietly() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--parts", type=int, default=5, help="of the trials, each with a median")
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.trials <= args.workers:
        parser.error(f"--trials must exceed --workers, got {args.trials} and {args.workers}")
    found = {}
    for name in args.samplers:
        sampler = SAMPLERS[name](args.workers)
        with _quietly():
            study = optuna.create_study(sampler=sampler, storage=InMemoryStorage())
            timed = Timed(sampler, study._storage)
            simulate(study, args.workers, args.trials)
        parts = np.array_split(np.arange(args.workers, args.trials), args.parts)
        took, read = (
            {int(part[0]): 1e3 * median(seconds[int(n)] for n in part) for part in parts}
            for seconds in (timed.seconds, timed.reading)
        )
        states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
        found[name] = {"ms": took, "read": read, "states": states, "wrong": collisions(study)}
        cells = "  ".join(f"from {n}: {ms:.2f} + {read[n]:.2f} read" for n, ms in took.items())
        print(f"{name:10s} ms in the sampler, trials {cells}")
        print(f"{'':10s} {dict(states)}; lineage: {found[name]['wrong']}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
