"""Measure the time to ask, suggest nine floats and tell, by the number of stored trials.

Both samplers beside random search and TPE; medians of interleaved rounds. Servers are named as
in databases.py:

    python examples/benchmarks/ask_cost.py --storages memory postgresql --sizes 100 1000 10000
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, create_trial

import databases
from optuna_hypergrad import GradientSampler, PopulationSampler, report_hypergradient

NAMES = [f"x{i}" for i in range(9)]


def objective(trial: optuna.Trial) -> float:
    params = {name: trial.suggest_float(name, -1, 1) for name in NAMES}
    report_hypergradient(trial, {name: 2 * (x - 0.3) for name, x in params.items()})
    return sum((x - 0.3) ** 2 for x in params.values())


def history(n_trials: int) -> list[FrozenTrial]:
    """The trials of a study, half of a search and half of a population."""
    study = optuna.create_study(sampler=PopulationSampler(seed=0))
    study.add_trials(long_search(n_trials // 2))
    study.optimize(objective, n_trials=n_trials - n_trials // 2)
    return study.get_trials(deepcopy=False)


def long_search(n_trials: int) -> list[FrozenTrial]:
    """A search of one chain that continues after it has converged."""
    study = optuna.create_study(
        sampler=GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False)
    )
    study.optimize(objective, n_trials=min(n_trials, 60))
    first = study.get_trials(deepcopy=False)
    return first + [_later_step(first[-1], number) for number in range(len(first), n_trials)]


def _later_step(last: FrozenTrial, number: int) -> FrozenTrial:
    claim = {**last.system_attrs["hg:claim"], "trial": number, "step": number, "used": [number - 1]}
    gradient = {**last.system_attrs["hg:gradient"], "trial": number}
    return create_trial(
        value=last.value,
        params=last.params,
        distributions=last.distributions,
        user_attrs={**last.user_attrs, "hg:step": number},
        system_attrs={"hg:claim": claim, "hg:gradient": gradient},
    )


@contextmanager
def storage_of(kind: str) -> Iterator[BaseStorage]:
    """A fresh storage."""
    if kind == "memory":
        yield InMemoryStorage()
        return
    with databases.fresh(kind) as address:
        storage = databases.connect(address)
        yield storage
        databases.disconnect(storage)


def seconds(study: optuna.Study) -> float:
    began = time.perf_counter()
    trial = study.ask()
    study.tell(trial, objective(trial))
    return time.perf_counter() - began


def measure(size: int, kind: str, rounds: int) -> dict[str, float]:
    """Median milliseconds by sampler, in one study."""
    samplers = {
        "random": RandomSampler(seed=0),
        "TPE": TPESampler(seed=0),
        "gradient": GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False),
        "population": PopulationSampler(seed=0),
    }
    with storage_of(kind) as storage:
        optuna.create_study(study_name="study", storage=storage).add_trials(history(size))
        studies = {
            name: optuna.load_study(study_name="study", storage=storage, sampler=sampler)
            for name, sampler in samplers.items()
        }
        for study in studies.values():
            seconds(study)  # fills the sampler's cache
        took = [{name: seconds(study) for name, study in studies.items()} for _ in range(rounds)]
    return {name: 1e3 * median(one[name] for one in took) for name in studies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    kinds = ["memory", *databases.KINDS]
    parser.add_argument("--storages", nargs="+", choices=kinds, default=["memory", "sqlite"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = {}
    for kind in args.storages:
        for size in args.sizes:
            took = found[f"{kind}, {size}"] = measure(size, kind, args.rounds)
            cells = (f"{n} {t:8.2f} ms ({t / took['random']:6.1f}×)" for n, t in took.items())
            print(f"{kind:10s} {size:6d} trials  " + "  ".join(cells), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
