"""Ray's Population Based Bandits (Parker-Holder et al., 2020) as a method of populations.py.

PB2 replaces the worst quarter of the members by clones of the best quarter, with hyperparameters
that maximize an upper confidence bound of a Gaussian process of the improvements so far. It knows
each hyperparameter as a number in [0, 1], on the scale of its distribution.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catalogue import JOBS
from cells import COST
from jobs import loaded
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FixedTrial
from segments import GENERATIONS, TEST, Search, constant_rates, of_segment, segment, tested

LOSS, SECONDS, HISTORY = "loss", "seconds", "history"

try:
    import ray
    from ray import tune
    from ray.tune.schedulers.pb2 import PB2

    PB2(hyperparam_bounds={"x": [0.0, 1.0]})  # says so if its Gaussian processes are missing
except (ImportError, RuntimeError) as error:
    message = 'pb2 needs Ray, and GPy or scikit-learn: pip install "ray[tune]" GPy scikit-learn'
    raise SystemExit(f"{message} ({error})") from error


class Member(tune.Trainable):
    """A member of the population; a step trains a segment."""

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.job = JOBS[config["job"]]
        self.data = loaded(self.job.data, Path(config["root"]))
        self.distributions = self.job.distributions(constant_rates)
        # Tune often begins a new process; what its first training loads is no cost of a segment.
        training = of_segment(self.job, FixedTrial(self.job.start_values(constant_rates)))
        segment(training, training.model(0), self.data, 0, {}, learns=False)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin anew: one process trains all members, which load their checkpoints after this."""
        del new_config
        self.reached: dict[str, Any] = {"model": None, "state": None, HISTORY: []}
        return True

    def step(self) -> dict[str, Any]:
        params = {name: at(d, self.config[name]) for name, d in self.distributions.items()}
        training, history = of_segment(self.job, FixedTrial(params)), self.reached[HISTORY]
        # A seed for each segment of each member: of (seed, member, segment), where the member is
        # the one that trains, not the one it was cloned from, and Ray ends trial ids with it.
        place = (self.config["seed"], int(self.trial_id.rpartition("_")[2]), len(history))
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        model = training.model(seed)
        restored = {}
        if history:
            model.load_state_dict(self.reached["model"])
            restored["state"] = self.reached["state"]
        start = time.process_time()
        found = segment(training, model, self.data, seed, restored, learns=False)
        seconds = time.process_time() - start
        history = [*history, params]
        self.reached = {"model": model.state_dict(), "state": found.state, HISTORY: history}
        test = tested(training, model, self.data, self.job)
        return {LOSS: self.job.bounded(found.loss), TEST: test, SECONDS: seconds, HISTORY: history}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        del checkpoint_dir  # Tune stores what is returned
        return self.reached

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.reached = checkpoint


class Results(tune.Callback):
    """The results of all segments, with their costs at the speed that the machine had."""

    def __init__(self, search: Search) -> None:
        self.plain, self.found = search.plain, list[dict[str, Any]]()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        cost = self.plain.cost(result[SECONDS], self.plain.seconds)
        self.found.append({**result, COST: cost})


def at(distribution: BaseDistribution, share: float) -> float:
    """The value at a share in [0, 1] of a range, on the scale of the distribution."""
    if not isinstance(distribution, FloatDistribution):
        raise ValueError(f"PB2 takes floats only, got {distribution}.")
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    return min(max(value, low), high)


def evolve(search: Search, size: int) -> list[dict[str, Any]]:
    """The results of the segments of all members, in the order in which they ended."""
    random.seed(search.seed)  # PB2 draws from both
    np.random.seed(search.seed)
    results, names = Results(search), search.job.distributions(constant_rates)
    # One member trains at a time because Ray has one CPU. max_concurrent_trials would create a
    # member only when the one before has ended. Members wait for the others of their generation.
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    started = ray.init(num_cpus=1, include_dashboard=False, **quiet)
    with started, contextlib.redirect_stdout(sys.stderr):  # Tune prints even so
        constants = {"job": search.job.name, "root": str(search.root.absolute())}
        scheduler = PB2(
            time_attr="training_iteration",
            metric=LOSS,
            mode="min",
            perturbation_interval=1,
            hyperparam_bounds={name: [0.0, 1.0] for name in names},
            synch=True,
        )
        ended = tune.Tuner(
            Member,
            param_space={**constants, "seed": search.seed},
            tune_config=tune.TuneConfig(num_samples=size, scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(search.folder.absolute()),
                stop={"training_iteration": GENERATIONS},
                callbacks=[results],
                verbose=0,
            ),
        ).fit()
    for error in ended.errors:
        raise error
    return results.found
