"""Compare the paper's sign rule with the safeguarded one: losses by trial on MNIST.

LeNet, 200 steps, seven learning rates, momentum and weight decay, all starting from zero; every
trial has its own initial weights and batches.

    python examples/benchmarks/mnist_rules.py --data-root DIR

DIR holds mnist.npz, or receives torchvision's download. Takes about five minutes for each of the
six searches on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import mnist
import optuna
import torch
from networks import device_name

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule, trial_seed
from optuna_hypergrad.autodiff import SGD, hypergradient

BATCH_SIZE, WINDOWS = 128, 7
RULES = {"plain": {"safeguard": None}, "safeguarded": {}}


def search(
    data: mnist.Batch, validation: list[mnist.Batch], rule: str, seed: int, trials: int, steps: int
) -> list[float]:
    """Losses of one study."""

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=WINDOWS)
        momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
        weight_decay = suggest_schedule(trial, "weight_decay", 0.0, 4e-3)
        own = trial_seed(trial)
        device = data[0].device
        result = hypergradient(
            mnist.lenet(own).to(device),
            mnist.loss_fn,
            SGD(lr, momentum=momentum, weight_decay=weight_decay),
            mnist.random_batches(data, own, steps, BATCH_SIZE),
            validation,
            steps=steps,
            estimate="exact",
        )
        report_hypergradient(trial, result.gradient)
        return result.loss

    sampler = GradientSampler(
        seed=seed, strategy="sign_descent", stop_when_converged=False, **RULES[rule]
    )
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return [float("nan") if t.value is None else t.value for t in study.trials]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the losses here")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data, validation = mnist.load(args.data_root, args.device)
    results = []
    for rule in args.rules:
        for seed in args.seeds:
            losses = search(data, validation, rule, seed, args.trials, args.steps)
            trace = " ".join(f"{loss:4.2f}" for loss in losses)
            best, last = min(filter(math.isfinite, losses)), losses[-1]
            print(f"{rule:>11}  seed {seed}  best {best:.3f}  last {last:.3f}  {trace}")
            results.append({"rule": rule, "seed": seed, "losses": losses})
    if args.json is not None:
        name = device_name(args.device)
        record = {"device": name, "torch": torch.__version__, "results": results}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
