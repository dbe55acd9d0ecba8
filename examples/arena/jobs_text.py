"""Language models: the transformer and the LSTM of the benchmark of trust."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import trust_jobs
from jobs import Job, Rates, adamw_options
from optuna.trial import BaseTrial
from torch import Tensor, nn
from training import Batch, Data, Training

from optuna_hypergrad import suggest_schedule

TRANSFORMER, LSTM = trust_jobs.JOBS["transformer"], trust_jobs.JOBS["lstm"]


def shakespeare(root: Path) -> Data:
    """Characters of Shakespeare."""
    return _data(TRANSFORMER, root)


def penn_treebank(root: Path) -> Data:
    """Words of Penn Treebank."""
    return _data(LSTM, root)


def _data(job: trust_jobs.Job, root: Path) -> Data:
    data = job.data(root)

    def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
        del size  # of batches: fixed there
        return data.batches(seed, steps)

    return Data(batches, data.validation, data.test)


def transformer(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in six windows and the options of AdamW."""
    lr = rates(trial, "lr", 1e-4, 1e-1, windows=6, log=True)
    return Training(TRANSFORMER.model, "adamw", adamw_options(trial, lr), steps=300)


class Words(trust_jobs.Words):
    """The LSTM, without dropout unless a rate is given."""

    def forward(self, text: Tensor, dropout: Tensor | float = 0.0) -> Tensor:
        return super().forward(text, dropout)


def words(seed: int) -> nn.Module:
    """The LSTM of a seed."""
    torch.manual_seed(seed)
    return Words()


def lstm(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in four windows, the options of AdamW, dropout and label smoothing."""
    lr = rates(trial, "lr", 3e-4, 3e-1, windows=4, log=True)
    hypers = {
        "dropout": suggest_schedule(trial, "dropout", 0.01, 0.6),
        "label_smoothing": suggest_schedule(trial, "label_smoothing", 0.0, 0.3),
    }
    options = adamw_options(trial, lr)
    return Training(words, "adamw", options, LSTM.loss, hypers, steps=60)


JOBS = (
    Job("transformer", transformer, shakespeare, 2 * math.log(65)),
    Job("lstm", lstm, penn_treebank, 2 * math.log(trust_jobs.VOCABULARY), is_set_aside=True),
)
