"""Cells of the arena as stored studies: what their trials cost, and how good their advice is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from jobs import Job
from optuna.trial import FrozenTrial, TrialState, create_trial
from training import Data, evaluate

from optuna_hypergrad import recommended
from samplers import Entry

COST, PLAIN_SECONDS = "cost", "plain_seconds"  # attributes of trials
ACCURACY, CLIPPED = "accuracy", "clipped"  # in validation; the share of Hessian products' entries
JUDGED, STEPS, ENVIRONMENT = "judged", "steps", "environment"  # attributes of studies
BUDGETS = (10, 25, 50, 500)  # in plain trainings
FRESH_SEEDS = range(10_000, 10_005)


class Cell(NamedTuple):
    """A job with a sampler and its seed."""

    job: str
    sampler: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its study."""
        return f"{self.job}/{self.sampler}/{self.seed}"

    @classmethod
    def of(cls, name: str) -> Cell:
        """The cell of a study."""
        job, sampler, seed = name.split("/")
        return cls(job, sampler, int(seed))


def cost_of(trial: FrozenTrial) -> float:
    """What a trial cost, in plain trainings; 0 while it runs."""
    return float(trial.user_attrs.get(COST, 0.0))


def spent(study: optuna.Study) -> float:
    """What all trials of a study cost."""
    return sum(map(cost_of, study.get_trials(deepcopy=False)))


def within(study: optuna.Study, budget: float) -> list[FrozenTrial]:
    """The trials that had ended when the study had cost the budget; the first one at least.

    Half a plain training more is allowed: costs are measured, and those of plain trainings are
    not exactly 1.
    """
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    ended.sort(key=lambda trial: trial.datetime_complete or trial.datetime_start)
    found, total = list[FrozenTrial](), 0.0
    for trial in ended:
        total += cost_of(trial)
        if found and total > budget + 0.5:
            break
        found.append(trial)
    return found


def without_params(judged: Mapping[str, Any]) -> dict[str, Any]:
    """What a judgement holds beside the hyperparameters."""
    return {name: value for name, value in judged.items() if name != "params"}


def judge(study: optuna.Study, job: Job, entry: Entry, data: Data, budget: float) -> bool:
    """Train what the study recommends at each budget with fresh seeds; whether any was missing.

    Budgets are those of the arena up to the budget of the study, and this one.
    """
    judged: dict[str, Any] = dict(study.user_attrs.get(JUDGED, {}))
    known: dict[str, dict[str, Any]] = {}  # by hyperparameters, which several budgets may share
    total, missing = spent(study), False
    for at in sorted({*(b for b in BUDGETS if b <= budget), budget}):
        if f"{at:g}" in judged or total < at:
            continue
        trials = within(study, at)
        if all(trial.state != TrialState.COMPLETE for trial in trials):
            raise RuntimeError(f"{study.study_name}: no trial ended well within {at} trainings.")
        trial, best_value = advice(trials, entry)
        key = json.dumps(trial.params, sort_keys=True)
        if key not in known:
            known[key] = fresh(job, entry, data, trial)
        judged[f"{at:g}"] = {"trials": len(trials), "best_value": best_value, **known[key]}
        study.set_user_attr(JUDGED, judged)
        missing = True
    return missing


def advice(trials: list[FrozenTrial], entry: Entry) -> tuple[FrozenTrial, float]:
    """The trial that a study of these trials recommends, and its best value."""
    study = optuna.create_study()
    by_number = {trial.number: trial for trial in trials}
    for number in range(max(by_number) + 1):  # what trials store holds their numbers
        study.add_trial(by_number.get(number, create_trial(state=TrialState.FAIL)))
    trial = recommended(study) if entry.is_smoothed else study.best_trial
    return trial, study.best_value


def fresh(job: Job, entry: Entry, data: Data, trial: FrozenTrial) -> dict[str, Any]:
    """Test losses and accuracies of trainings with the trial's hyperparameters and fresh seeds."""
    training = job.suggest(trial, entry.rates)
    losses, accuracies = list[float](), list[float]()
    for seed in FRESH_SEEDS:
        model = entry.train(training, data, seed).model
        loss, accuracy = evaluate(training, model, data.test, in_eval_mode=job.tests_in_eval_mode)
        losses.append(job.bounded(loss))
        if accuracy is not None:
            accuracies.append(accuracy)
    return {"params": trial.params, "losses": losses, "accuracies": accuracies}
