"""Searches for a digits schedule, of which many trials diverge, with and without a pruner."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits import STEPS, WINDOWS, WORST, Digits, loss_fn, new_model, random_batches, suggest

from optuna_hypergrad import (
    DivergencePruner,
    GradientSampler,
    report_hypergradient,
    suggest_schedule,
    watch,
)
from optuna_hypergrad.autodiff import SGD, hypergradient

EVERY = 20  # steps between reports
SEARCHES: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed),
    # All chains but the first start at random points.
    "gradient": lambda seed: GradientSampler(seed=seed, n_chains=4, stop_when_converged=False),
}


def by_logarithm(trial: optuna.Trial) -> SGD:
    """A search space for samplers without gradients: large rates diverge."""
    lr = suggest_schedule(trial, "lr", 1e-2, 3e1, windows=WINDOWS, log=True)
    momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
    return SGD(lr, momentum=momentum)


def run(search: str, trials: int, seed: int, prunes: bool) -> dict[str, Any]:
    """Training steps taken, best validation loss, and the loss of every trial that has one."""
    data = Digits.load("cpu")
    differentiate = search == "gradient"

    def objective(trial: optuna.Trial) -> float:
        result = hypergradient(
            new_model(seed, "cpu"),
            loss_fn,
            suggest(trial) if differentiate else by_logarithm(trial),
            random_batches(data.train, seed),
            data.validation,
            steps=STEPS,
            learn=None if differentiate else (),
            products="batched",
            on_step=watch(trial, every=EVERY),
        )
        if differentiate:
            report_hypergradient(trial, result.gradient)
        return result.loss if math.isfinite(result.loss) else WORST

    pruner = DivergencePruner() if prunes else NopPruner()
    study = optuna.create_study(sampler=SEARCHES[search](seed), pruner=pruner)
    study.optimize(objective, n_trials=trials)
    done = study.get_trials(deepcopy=False)
    complete = {t.number: t.value for t in done if t.state == TrialState.COMPLETE}
    return {
        "steps": sum(
            STEPS if t.number in complete else 1 + max(t.intermediate_values) for t in done
        ),
        "loss": min(complete.values(), default=WORST),
        "losses": complete,
    }


def judge(search: str, without: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The number of pruned trials, and for random search, which proposes the same in both runs, the
    lowest loss that one of them reached without the pruner."""
    pruned_only = without["losses"].keys() - pruned["losses"].keys()
    if search != "random":
        return {"pruned": len(pruned_only)}
    return {
        "pruned": len(pruned_only),
        "best of these": min(
            (without["losses"][number] for number in pruned_only), default=math.inf
        ),
    }
