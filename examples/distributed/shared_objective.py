"""The digits of scikit-learn as an objective for any number of workers, machines and ranks."""

from __future__ import annotations

import math
import os
import socket
from functools import cache

import optuna
import torch
import torch.nn.functional as F
from optuna.trial import BaseTrial
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule, trial_seed
from optuna_hypergrad.autodiff import SGD
from optuna_hypergrad.distributed import hypergradient

STUDY = "digits-distributed"
STEPS = int(os.environ.get("STUDY_STEPS", "200"))
WORST = 100.0  # the value of a run that diverged

Batch = tuple[Tensor, Tensor]


@cache
def data(device: str) -> tuple[Batch, Batch]:
    """Images and labels for training and for validation, read once a process."""
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images, labels = images.to(device, torch.float32) / 16, labels.to(device)
    held_out = torch.arange(len(labels), device=device) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def objective(trial: BaseTrial) -> float:
    """Validation loss of a schedule; under torchrun, ranks share the tangents."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    (images, labels), validation = data(device)
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=5)
    momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
    torch.manual_seed(trial_seed(trial))  # the same on all ranks
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    draws = torch.randint(len(labels), (STEPS, 64)).to(device)
    result = hypergradient(
        model,
        loss_fn,
        SGD(lr, momentum=momentum),
        lambda step: (images[draws[step]], labels[draws[step]]),
        validation,
        steps=STEPS,
    )
    report_hypergradient(trial, result)
    return result.loss if math.isfinite(result.loss) else WORST


def storage_url() -> str:
    """The storage's URL, without the newline that a file may add."""
    return os.environ["STUDY_STORAGE"].strip()


def new_sampler() -> GradientSampler:
    """The sampler of all workers: two searches from different starts."""
    return GradientSampler(seed=0, n_chains=2)


def open_study(storage: str | optuna.storages.BaseStorage) -> optuna.Study:
    """Open the study; the first worker creates it."""
    return optuna.create_study(
        study_name=STUDY, storage=storage, sampler=new_sampler(), load_if_exists=True
    )


def until(n_trials: int) -> optuna.study.MaxTrialsCallback:
    """A callback that stops a worker when all workers together have finished ``n_trials``."""
    return optuna.study.MaxTrialsCallback(n_trials, states=(optuna.trial.TrialState.COMPLETE,))
