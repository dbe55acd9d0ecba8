"""Compare signs of hypergradients with the model in bfloat16 and in float32.

MNIST, ten windows of learning rates, momentum and weight decay, several seeds; the model runs under
autocast in bfloat16, while weights, loss and tangents stay in float32:

    python examples/benchmarks/half_precision.py --data-root DIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import mnist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

LossFn = Callable[[nn.Module, mnist.Batch], Tensor]

WINDOWS, BATCH_SIZE = 10, 64


def mlp(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def half(model: nn.Module, batch: mnist.Batch) -> Tensor:
    images, labels = batch
    with torch.autocast(images.device.type, torch.bfloat16):
        outputs = model(images)
    return F.cross_entropy(outputs.float(), labels)


def update() -> SGD:
    return SGD(
        Schedule("lr", [0.05] * WINDOWS),
        momentum=Schedule("momentum", [0.5]),
        weight_decay=Schedule("weight_decay", [1e-4]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    data, validation = mnist.load(args.data_root, args.device)

    def gradient(make: Callable[[int], nn.Module], loss: LossFn, seed: int) -> Tensor:
        """The hypergradient, shape (hyperparameters,)."""
        draw = mnist.random_batches(data, seed, args.steps, BATCH_SIZE)
        model = make(seed).to(args.device)
        result = hypergradient(
            model,
            loss,
            update(),
            draw,
            validation,
            steps=args.steps,
            mode="reverse",
            estimate="exact",
        )
        return torch.tensor(list(result.gradient.values()))

    record = {}
    for name, make in {"MLP": mlp, "LeNet": mnist.lenet}.items():
        single, halved = (
            torch.stack([gradient(make, loss, seed) for seed in range(args.seeds)])
            for loss in (mnist.loss_fn, half)
        )
        same = single.sign() == halved.sign()
        angles = F.cosine_similarity(single, halved)
        record[name] = {"same": int(same.sum()), "of": same.numel(), "cosine": float(angles.min())}
        print(
            f"{name}: {int(same.sum())} of {same.numel()} signs are the same; by seed "
            f"{same.sum(1).tolist()}; least cosine of the angle between them {angles.min():.4f}"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
