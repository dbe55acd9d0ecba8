"""Mixture weights: how much each of 300 sources of text counts in training a language model.

    python examples/many/mixture.py --data DIR

The target is Shakespeare. A third of the sources are slices of his text, a third are slices of the
Wall Street Journal (Penn Treebank), and a third are slices of his text with every letter replaced
by another one. The search learns a weight in [0, 1] for each source from 2,000 characters of the
target. The model predicts a character from the eight before it. DIR holds tinyshakespeare.txt and
ptb.valid.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import many
import numpy as np
import torch
import torch.nn.functional as F
from optuna.trial import BaseTrial, FrozenTrial
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training

SLICES, KINDS = 100, ("target", "other", "garbled")
SOURCES = SLICES * len(KINDS)
CONTEXT, LETTERS, LENGTH = 8, "\n abcdefghijklmnopqrstuvwxyz", 2_000  # of a slice, in characters
STEPS, SIZE, HELD_OUT = 200, 128, 2_000
VOCABULARY = len(LETTERS)


def encoded(path: Path) -> Tensor:
    """The text in small letters, line ends and spaces; what else there is becomes a space."""
    codes = {letter: i for i, letter in enumerate(LETTERS)}
    text = path.read_text().lower()
    return torch.tensor([codes.get(letter, codes[" "]) for letter in text])


def texts(root: Path) -> Data:
    """Batches of contexts, next characters and sources; validation and test are of the target."""
    target, other = encoded(root / "tinyshakespeare.txt"), encoded(root / "ptb.valid.txt")
    draws = torch.Generator().manual_seed(0)
    letters = torch.cat([torch.arange(2), 2 + torch.randperm(VOCABULARY - 2, generator=draws)])
    whole = SLICES * LENGTH
    garbled = letters[target[whole : 2 * whole]]
    sources = torch.cat([target[:whole], other[:whole], garbled]).reshape(SOURCES, LENGTH)
    held_out = target[2 * whole :]

    def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
        own = torch.Generator().manual_seed(seed)
        source = torch.randint(SOURCES, (steps, size), generator=own)
        start = torch.randint(LENGTH - CONTEXT, (steps, size), generator=own)

        def batch(step: int) -> Batch:
            at = start[step][:, None] + torch.arange(CONTEXT + 1)
            window = sources[source[step][:, None], at]
            return window[:, :-1], window[:, -1], source[step]

        return batch

    windows = held_out.unfold(0, CONTEXT + 1, 1)
    validation, test = windows[:HELD_OUT], windows[50_000 : 50_000 + 10 * HELD_OUT]
    return Data(batches, *((part[:, :-1], part[:, -1]) for part in (validation, test)))


def model(seed: int) -> nn.Module:
    """An embedding and a network of one hidden layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Embedding(VOCABULARY, 16), nn.Flatten(), nn.Linear(16 * CONTEXT, 128)),
        *(nn.ReLU(), nn.Linear(128, VOCABULARY)),
    )


def weighted(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy with the weights of the characters' sources."""
    context, following, source = batch
    losses = F.cross_entropy(model(context), following, reduction="none")
    return (hypers["weight"][source] * losses).mean()


def training(weight: Any) -> Training:
    """A training with these weights."""
    options = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}
    hypers = {"weight": weight}
    return Training(model, "adamw", options, weighted, hypers, steps=STEPS, size=SIZE)


def suggest(trial: BaseTrial, suggest_weights: Any) -> Training:
    """The search space."""
    return training(suggest_weights(trial, "weight", 0.0, 1.0, SOURCES, step_size=0.4))


def by_kind(trial: FrozenTrial) -> dict[str, float]:
    """The mean weight of each kind of source."""
    weight = many.suggested(trial, "weight", 0.0, 1.0, SOURCES).reshape(len(KINDS), SLICES)
    return dict(zip(KINDS, weight.mean(1).round(4).tolist(), strict=True))


def of_kind(*kinds: str) -> Any:
    """Weight 1 for sources of these kinds."""
    return np.repeat([float(kind in kinds) for kind in KINDS], SLICES).astype(np.float32)


if __name__ == "__main__":
    many.main(
        many.ManyJob(
            "mixture",
            suggest,
            texts,
            describe=by_kind,
            references={
                "all sources": lambda: training(of_kind(*KINDS)),
                "the target's alone": lambda: training(of_kind("target")),
            },
        ),
        f"weights of {SOURCES} sources of text",
    )
