"""Measure one outer step in plain training steps, beside a naive loop, and the shares of its parts.

Forward mode, LeNet, MNIST, batch 128, seven learning rates, momentum and weight decay:

    python examples/benchmarks/outer_step.py --data-root DIR

All three runs (plain training, this package, the naive loop) are interleaved; times are the best of
several rounds, and only their ratios are meaningful on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import mnist
import naive
import torch
import torch.nn.functional as F
from networks import device_name
from torch.profiler import ProfilerActivity, profile, record_function

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, forward, hypergradient
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.run import Run

BATCH_SIZE, WINDOWS = 128, 7
RATES, MOMENTUM, WEIGHT_DECAY = [0.05] * WINDOWS, 0.5, 1e-4


def update() -> SGD:
    return SGD(
        Schedule("lr", RATES),
        momentum=Schedule("momentum", [MOMENTUM]),
        weight_decay=Schedule("weight_decay", [WEIGHT_DECAY]),
    )


def seconds(run: Callable[[], object], device: str) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Fractions of the time that the parts of a step take, by the profiler."""
    parts = {
        "training gradient": (TrainingLoss, "gradients"),
        "Hessian products": (Run, "gradient_and_products"),  # with the training gradient
        "tangents": (forward, "step_jvp"),
        "validation": (Run, "validate"),
    }
    originals = {name: getattr(*place) for name, place in parts.items()}

    def labelled(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if name == "training gradient" and not options.get("twice"):
                return originals[name](*args, **options)  # counts as validation
            with record_function(name):
                return originals[name](*args, **options)

        return call

    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, labelled(name))
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("all"):
            run()
    finally:
        for name, (owner, attribute) in parts.items():
            setattr(owner, attribute, originals[name])
    times = {event.key: event.cpu_time_total for event in profiler.key_averages()}
    found = {name: times.get(name, 0.0) / times["all"] for name in parts}
    found["Hessian products"] -= found["training gradient"]
    return {**found, "the rest": 1 - sum(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    data, validation = mnist.load(args.data_root, args.device)
    draw = mnist.random_batches(data, 0, args.steps, BATCH_SIZE)

    def ours(learn: tuple[str, ...] | None) -> dict[str, float]:
        model = mnist.lenet(0).to(args.device)
        result = hypergradient(
            model,
            mnist.loss_fn,
            update(),
            draw,
            validation,
            steps=args.steps,
            mode="forward",  # as the naive loop
            estimate="exact",
            learn=learn,
        )
        return result.gradient

    def theirs() -> dict[str, float]:
        model = mnist.lenet(0).to(args.device)
        values = RATES, [MOMENTUM], [WEIGHT_DECAY]
        return naive.hypergradient(model, F.cross_entropy, *values, draw, validation, args.steps)

    def plain() -> None:
        model = mnist.lenet(0).to(args.device)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATES[0], momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        for step in range(args.steps):
            optimizer.zero_grad()
            mnist.loss_fn(model, draw(step)).backward()
            optimizer.step()

    runs = {
        "plain": plain,
        "train only": lambda: ours(()),  # plain training and the validation gradient
        "ours": lambda: ours(None),
        "naive": theirs,
    }
    best = dict.fromkeys(runs, float("inf"))
    gradients = {}
    for _ in range(args.rounds):
        for name, run in runs.items():
            elapsed, gradients[name] = seconds(run, args.device)
            best[name] = min(best[name], elapsed)
    ratios = {name: best[name] / best["plain"] for name in runs}
    difference = max(
        abs(gradients["ours"][k] - v) / max(map(abs, gradients["naive"].values()))
        for k, v in gradients["naive"].items()
    )
    for name, ratio in ratios.items():
        print(f"{name:>11}: {ratio:5.2f} × plain training")
    print(f"ours / naive: {best['ours'] / best['naive']:.3f}; gradients differ by {difference:.1e}")
    parts = shares(lambda: ours(None))
    print("of our time: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()))
    if args.json is not None:
        name = device_name(args.device)
        record = {"device": name, "torch": torch.__version__, "ratios": ratios, "shares": parts}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
