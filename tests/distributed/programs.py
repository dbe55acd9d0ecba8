"""What ranks do in the tests: python programs.py NAME [ARGUMENTS]; prints JSON."""

import atexit
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from problems import PROBLEMS, STEPS, solved

from autodiff.problems import batch, batches, loss_fn, mlp
from optuna_hypergrad import (
    GradientSampler,
    Schedule,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
    watch,
)
from optuna_hypergrad.autodiff import SGD, Hypergradient
from optuna_hypergrad.distributed import RankError, hypergradient, join, optimize
from optuna_hypergrad.reports.attributes import current_system_attrs

LR = Schedule("lr", [0.3, 0.1])


def _as_json(result: Hypergradient) -> dict:
    growth = result.growth
    found = asdict(replace(result, growth=None))
    if growth is not None:
        found["growth"] = {"total": growth.total, "damped": growth.damped, "trust": growth.trust}
    return found


def train(**changes: Any) -> dict[str, float]:
    """A short run; ``changes`` to what is the same on all ranks."""
    torch.manual_seed(changes.pop("seed", 0))
    model = mlp()
    torch.manual_seed(1)
    data = changes.pop("batches", batches(STEPS))
    update = SGD(changes.pop("lr", LR))
    options = {"steps": STEPS, **changes}
    return hypergradient(model, loss_fn, update, data, batch(20), **options).gradient


def solutions() -> dict[str, Any]:
    """Every problem's result."""
    results = {name: _as_json(solved(hypergradient, name)) for name in PROBLEMS}
    for result in results.values():
        result["state"] = [part.tolist() for part in result["state"]]
    return results


def raising_at(rank: int, at: int, error: Exception) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        if step == at and join().rank == rank:
            raise error

    return on_step


def quarrels() -> dict[str, str]:
    """The errors of each rank in runs that differ between ranks, one after another."""
    mine = join().rank
    torch.manual_seed(1)
    data = batches(STEPS)
    broken = ValueError("the disk of rank 1")
    runs: dict[str, Callable[[], object]] = {
        "weights": lambda: train(seed=mine),
        "steps": lambda: train(steps=STEPS + mine),
        "values": lambda: train(lr=Schedule("lr", [0.3, 0.1 + mine])),
        "learned": lambda: train(learn=["lr_0"] if mine else None),
        "learned by one": lambda: train(**({} if mine else {"hypers": {"eps": 0.1}})),
        "averaged": lambda: train(average=bool(mine)),
        "clipped": lambda: train(clip_products=0.01 if mine else None),
        "truncated": lambda: train(truncate=0.5 * mine),
        "order": lambda: train(batches=data[::-1] if mine else data),
        "late": lambda: train(batches=[*data[:-1], data[mine]]),
        "raised": lambda: train(on_step=raising_at(1, 5, broken)),
        "elsewhere": lambda: join().gather("lunch" if mine else "dinner"),
        "peace": train,
    }
    found = {}
    for name, run in runs.items():
        try:
            with join().together():
                run()
            found[name] = "fine"
        except (RankError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def objective(trial: Any) -> float:
    """Of several ranks, or of one."""
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=3)
    torch.manual_seed(trial_seed(trial))
    model = mlp()
    torch.manual_seed(0)
    result = hypergradient(
        model,
        loss_fn,
        SGD(lr),
        batches(STEPS),
        batch(20),
        steps=STEPS,
        mode="forward",
        on_step=watch(trial, every=5),
    )
    report_hypergradient(trial, result.gradient)
    assert current_system_attrs(trial)["hg:gradient"]["trial"] == trial.number
    seen.append([trial.number, trial.params, result.loss, trial_seed(trial)])
    if trial.number == 1 and join().rank == join().size - 1:
        raise ValueError("only here")
    return result.loss


seen: list[Any] = []


class Fourth(optuna.pruners.BasePruner):
    """Prunes the fourth trial at its step 5, and none else."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 3 and trial.last_step == 5


def new_study() -> optuna.Study:
    return optuna.create_study(sampler=GradientSampler(seed=3), pruner=Fourth())


def trials_of(study: optuna.Study) -> list[Any]:
    return [
        [t.state.name, t.params, t.value, {**t.user_attrs, **t.system_attrs}] for t in study.trials
    ]


def studies() -> dict[str, Any]:
    """A study whose second trial fails on the last rank alone, and another that ends by that."""
    study = new_study() if join().is_first else None
    optimize(study, objective, n_trials=5, catch=(RankError, ValueError))
    found: dict[str, Any] = {"trials": study and trials_of(study), "seen": list(seen)}
    other = new_study() if join().is_first else None
    try:
        optimize(other, objective, n_trials=5)
    except (RankError, ValueError) as error:
        found |= {"error": f"{type(error).__name__}: {error}", "cause": repr(error.__cause__)}
    found["suggested"] = suggestions()
    return found | {"states": other and [trial.state.name for trial in other.trials]}


def suggestions() -> list[Any]:
    """What a trial says of itself on each rank, with parameters of all kinds."""
    found: list[Any] = []

    def everything(trial: Any) -> float:
        values = [
            trial.suggest_float("x", 1e-5, 1.0, log=True),
            trial.suggest_float("stepped", 0.0, 1.0, step=0.25),
            trial.suggest_int("n", 1, 9),
            trial.suggest_int("even", 2, 8, step=2),
            trial.suggest_categorical("kind", ["a", None, 2, True]),
            trial.suggest_float("x", 1e-5, 1.0, log=True),
        ]
        trial.report(0.5, 1)
        trial.set_user_attr("seen", values)
        facts = [trial.number, trial.user_attrs, str(trial.distributions), trial_seed(trial)]
        found.append([values, trial.params, *facts, str(trial.datetime_start)])
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"kind": None, "n": 7}, user_attrs={"from": "queue"})
    optimize(study if join().is_first else None, everything, n_trials=3)
    if join().is_first:
        stored = study.trials[0]
        assert stored.params == found[0][1] and stored.user_attrs == found[0][3]
        assert stored.intermediate_values == {1: 0.5}
    return found


def peaceful() -> dict[str, Any]:
    """All that leaves the ranks alive, in one launch."""
    return {"solutions": solutions(), "quarrels": quarrels(), "studies": studies()}


def dying() -> Any:
    """The last rank is killed in the middle of the second trial's training."""
    last = join().rank == join().size - 1

    def objective(trial: Any) -> float:
        def on_step(step: int, loss: float) -> None:
            if last and (trial.number, step) == (1, 5):
                os.kill(os.getpid(), signal.SIGKILL)

        train(on_step=on_step)
        return 0.0

    study = optuna.create_study() if join().is_first else None
    try:
        optimize(study, objective, n_trials=5, catch=RankError)
    except RankError as error:
        assert study is not None
        return [str(error), [trial.state.name for trial in study.trials]]
    return None


def hanging(seconds: str) -> str:
    """The last rank hangs for longer than the others wait, so many seconds."""
    join(timeout=float(seconds))
    return _alone_after(lambda step, loss: time.sleep(2 * float(seconds)))


def _alone_after(end: Callable[[int, float], None]) -> str:
    """The error of the others when the last rank comes to its end, and again later."""
    last = join().rank == join().size - 1
    try:
        train(on_step=lambda step, loss: end(step, loss) if last and step == 5 else None)
    except RankError as error:
        try:
            train()
        except RankError as again:
            assert str(again) == str(error)
            return str(error)
    return "nothing"


def print_threads() -> None:
    """How many of gloo's threads still run; one that drops a tensor now aborts the process."""
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    print(names.count("pt_gloo_runloop"))


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_default_dtype(torch.float64)
    program: Callable[..., Any] = globals()[sys.argv[1]]
    atexit.register(print_threads)  # at the very end, after all that is registered from here on
    print(json.dumps(program(*sys.argv[2:])), flush=True)
