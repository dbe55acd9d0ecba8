"""A learning rate for every layer and window, and a weight decay for every layer.

    python examples/many/rates.py --data DIR

LeNet, which has five layers, trains for 100 steps on MNIST. Each layer has twenty learning rates
and a weight decay: 105 hyperparameters. DIR holds mnist.npz, or receives torchvision's download.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import many
import mnist
from jobs_images import mnist_images
from jobs_tables import is_in
from optuna.trial import BaseTrial
from training import Training

from optuna_hypergrad import Schedule

LAYERS, WINDOWS = 5, 20


INDICES = (0, 3, 7, 9, 11)  # of the layers in the network


def suggest(trial: BaseTrial, suggest_values: Any) -> Training:
    """The search space; momentum is 0.9."""
    rates = suggest_values(trial, "lr", 1e-4, 1.0, (LAYERS, WINDOWS), log=True, step_size=0.1)
    decays = suggest_values(trial, "decay", 1e-6, 1e-1, LAYERS, log=True, step_size=0.1)
    groups: list[dict[str, Any]] = []
    for layer, index in enumerate(INDICES):
        lr = Schedule(f"lr_{layer}", rates[layer])
        decay = Schedule(f"decay_{layer}", [decays[layer]])
        groups.append({"params": partial(is_in, f"{index}."), "lr": lr, "weight_decay": decay})
    rest = {"lr": groups[0]["lr"], "weight_decay": groups[0]["weight_decay"], "momentum": 0.9}
    return Training(mnist.lenet, "sgd", rest, groups=groups, steps=100)


if __name__ == "__main__":
    many.main(
        many.ManyJob("rates", suggest, mnist_images),
        f"{WINDOWS} learning rates and a weight decay of each of {LAYERS} layers",
    )
