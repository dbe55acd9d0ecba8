"""A program that uses the package as people do, for type checkers; it is not run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FixedTrial
from torch import Tensor, nn
from typing_extensions import assert_type

from optuna_hypergrad import (
    ConsensusPruner,
    DivergencePruner,
    GradientSampler,
    PopulationSampler,
    PublishCallback,
    Schedule,
    Schedules,
    TruncationPruner,
    best_schedules,
    lineage,
    lineage_schedules,
    members,
    outer_steps,
    publish,
    report_hypergradient,
    students,
    suggest_schedule,
    trial_seed,
    watch,
)
from optuna_hypergrad.autodiff import SGD, AdamW, Hypergradient, hypergradient
from optuna_hypergrad.hypernet import Bounded, Conditioning, HyperTraining, convert
from optuna_hypergrad.integrations import HyperparameterScheduler
from optuna_hypergrad.members import MemberHandle
from optuna_hypergrad.samplers import ChainSummary, OuterStep, SegmentRecord
from optuna_hypergrad.visualization import matplotlib, plot_convergence

Batch = tuple[Tensor, Tensor]
DATA: Batch = torch.randn(64, 3), torch.randn(64, 1)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def batch_at(step: int) -> Batch:
    return DATA


def objective(trial: optuna.Trial) -> float:
    torch.manual_seed(assert_type(trial_seed(trial), int))
    lr = assert_type(suggest_schedule(trial, "lr", -1.0, 1.0, windows="auto"), Schedule)
    momentum = suggest_schedule(trial, "momentum", 0.0, 0.99, form="cosine")
    update = SGD(lr, momentum=momentum, weight_decay=1e-4)
    result = hypergradient(
        nn.Linear(3, 1),
        loss_fn,
        update,
        batch_at,
        DATA,
        steps=100,
        mode="auto",
        on_step=watch(trial, every=20),
    )
    assert_type(result, Hypergradient)
    assert_type(result.gradient, dict[str, float])
    report_hypergradient(trial, result.gradient)
    return assert_type(result.loss, float)


def segment(trial: optuna.Trial) -> float:
    member = members.begin(trial, FileSystemArtifactStore("students"))
    assert_type(member, MemberHandle)
    assert_type(member.parent, int | None)
    rate = trial.suggest_float("rate", 0.0, 0.8)
    conditioning = Conditioning({"rate": Bounded(0.0, 0.8)}, {"rate": rate})
    student = convert(nn.Linear(3, 1), conditioning)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    training = HyperTraining(student, loss_fn, optimizer)
    state = member.restore(student=student, optimizer=optimizer, training=training)
    assert_type(state, dict[str, Any])
    training.step(DATA, DATA)
    member.refined(training.values)
    member.save(student=student, optimizer=optimizer, training=training)
    return loss_fn(student, DATA).item()


def look(study: optuna.Study, sampler: GradientSampler) -> None:
    for ancestor in assert_type(lineage(study), list[SegmentRecord]):
        assert_type(ancestor.params, dict[str, Any])
    assert_type(students(study), list[SegmentRecord])
    assert_type(sampler.chains(study), list[ChainSummary])
    for step in assert_type(outer_steps(study), list[OuterStep]):
        assert_type(step.gradient, dict[str, float])
    plot_convergence(study, retrained=[0.1, 0.2]).write_html("convergence.html")
    assert_type(matplotlib.plot_lineage(study), Figure).savefig("lineage.png")
    assert_type(matplotlib.plot_schedules(study, names=["lr"]), Figure)
    publish(study, FileSystemArtifactStore("students"))


def take_away(study: optuna.Study) -> None:
    best = assert_type(best_schedules(study), Schedules)
    lived: Mapping[str, Schedule] = lineage_schedules(study, 3, cuts=5)
    assert_type(best.at(0, 10), dict[str, float])
    assert_type(best["lr"].over(10), NDArray[np.float64])
    assert_type(Schedules.from_csv(best.to_csv()), Schedules)
    assert_type(Schedule.from_json(best["lr"].to_json()), Schedule)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    assert_type(best["lr"].to_lambda_lr(optimizer, 100), torch.optim.lr_scheduler.LambdaLR)
    scheduler = HyperparameterScheduler(optimizer, lived, 100, uses={"rate": "lr"})
    scheduler.load_state_dict(assert_type(scheduler.state_dict(), dict[str, Any]))
    update = AdamW(best["lr"], betas=(best["beta1"], 0.999))
    hypergradient(model, loss_fn, update, [DATA], DATA, steps=1, learn=())
    suggest_schedule(FixedTrial(study.best_params), "lr", -1.0, 1.0, windows=7)


def main() -> None:
    sampler = GradientSampler(seed=0, n_chains=2, n_replicates=3, start={"lr": 0.1})
    study = optuna.create_study(sampler=sampler, pruner=DivergencePruner())
    study.optimize(objective, n_trials=12)
    look(study, sampler)
    take_away(study)
    pruner = TruncationPruner()
    population = optuna.create_study(sampler=PopulationSampler(seed=0), pruner=pruner)
    population.optimize(segment, n_trials=50, n_jobs=2, callbacks=[PublishCallback(every=10)])
    optuna.create_study(sampler=GradientSampler(n_replicates=3), pruner=ConsensusPruner())
