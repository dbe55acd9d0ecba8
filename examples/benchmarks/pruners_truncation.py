"""A population of digits classifiers with and without a pruner, and how often it is right."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits_population import Digits, draw, evaluate, loss_fn

from optuna_hypergrad import PopulationSampler, TruncationPruner, members, trial_seed
from optuna_hypergrad.samplers.population.population import Population

POPULATION, STEPS, EVERY = 16, 60, 10  # steps of a segment, and between its reports


class Witness(BasePruner):
    """Prunes nothing, but records what another pruner would have pruned."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner
        self.named: set[int] = set()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        if self._pruner.prune(study, trial):
            self.named.add(trial.number)
        return False


class Objective:
    """One segment of a plain network, whose hyperparameters only mutate."""

    def __init__(self, data: Digits, store: FileSystemArtifactStore) -> None:
        self.data, self.store = data, store

    def __call__(self, trial: optuna.Trial) -> float:
        member = members.begin(trial, self.store)
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        momentum = trial.suggest_float("momentum", 0.0, 0.99)
        dropout = trial.suggest_float("dropout", 0.0, 0.8)
        torch.manual_seed(trial_seed(trial))
        student = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=momentum)
        member.restore(student=student, optimizer=optimizer)
        for step in range(STEPS):
            if step % EVERY == 0 and step > 0:
                trial.report(evaluate(student, self.data.selection)[0], step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            loss = loss_fn(student, draw(self.data.train))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        member.save(student=student, optimizer=optimizer)
        trial.set_user_attr("test_loss", evaluate(student, self.data.test)[0])
        return evaluate(student, self.data.selection)[0]


def run(search: str, trials: int, seed: int, prunes: bool) -> dict[str, Any]:
    """Training steps taken, best selection loss, and which segments would have been pruned."""
    del search  # there is one
    witness = Witness(TruncationPruner())
    study = optuna.create_study(
        # The surrogate sees what the pruner stops, so the two populations would differ.
        sampler=PopulationSampler(seed=seed, population_size=POPULATION, mutation="teacher"),
        pruner=TruncationPruner() if prunes else witness,
    )
    with tempfile.TemporaryDirectory() as folder:
        study.optimize(Objective(Digits.load(), FileSystemArtifactStore(folder)), n_trials=trials)
    done = study.get_trials(deepcopy=False)
    pruned = [trial for trial in done if trial.state == TrialState.PRUNED]
    n_complete, cut = len(done) - len(pruned), sum(max(t.intermediate_values) for t in pruned)
    return {
        "steps": STEPS * n_complete + cut,
        "loss": study.best_value,
        "test loss": study.best_trial.user_attrs["test_loss"],
        "replaced": {number: _is_replaced(study, number) for number in sorted(witness.named)},
    }


def judge(search: str, without: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """How many of the segments that would have been pruned ended in a replacement."""
    del search, pruned
    known = [replaced for replaced in without["replaced"].values() if replaced is not None]
    return {"named": len(known), "replaced at their end": sum(known)}


def _is_replaced(study: Study, number: int) -> bool | None:
    """Whether a clone replaced the member; None if the study ended before."""
    population = Population()
    population.read(study.get_trials(deepcopy=False))
    own = population[number].segment
    successors = [s for s in population.attempts(own.member, own.generation + 1) if s.done]
    return successors[0].is_clone if successors else None
