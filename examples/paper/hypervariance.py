"""Measure how far hypergradients fluctuate, and how much less where steps share them (FDS, Fig. 2).

A LeNet is trained on MNIST with one learning rate for each of 400 steps, several times, with one of
four perturbations: other training batches, other validation images, initial weights (±1 %), or
learning rates (±1 %). The figure shows the hypergradients of all steps, and how their hypervariance
(standard deviation over mean) and their sign fluctuation (min(P₋, P₊) / P) fall as more steps share
one learning rate. Dotted lines are those of greedy hypergradients, of the validation loss after the
step alone, at every 20th step.

    python examples/paper/hypervariance.py --data-root DIR

DIR holds mnist.npz, or receives torchvision's download. Takes about ten minutes on two cores.
Unlike in the paper, the data is MNIST (not SVHN), and nothing is clipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_hypergrad import Schedule
from optuna_hypergrad.algorithms.noise import hypervariance, sign_fluctuation
from optuna_hypergrad.autodiff import SGD, hypergradient

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import mnist

STEPS, BATCH_SIZE, VALIDATION, LR, PERTURBATION = 400, 64, 1_000, 0.05, 0.01
PERTURBED = ("training batches", "validation images", "initial weights", "learning rates")
GREEDY_EVERY = 20  # steps; a slope costs as much as fifteen of them
DRAWN = 40  # steps a window, in the paper and in the left panel
COLORS = dict(zip(PERTURBED, ("C0", "C1", "C2", "C3"), strict=True))
Array = NDArray[np.float64]


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Factors 1 ± PERTURBATION."""
    return 1.0 + PERTURBATION * rng.choice([-1.0, 1.0], size=shape)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a training is given; perturbed by a seed other than 0."""

    model: nn.Module
    rates: Array  # shape (steps,)
    batches: Callable[[int], mnist.Batch]
    validation: mnist.Batch


def setting(
    data: mnist.Batch, held_out: mnist.Batch, perturbed: str, seed: int, steps: int, batch_size: int
) -> Setting:
    """Model, learning rates and data; seed 0 is unperturbed."""
    rng = np.random.default_rng(seed)
    model = mnist.lenet(0).double()
    if perturbed == "initial weights" and seed:
        with torch.no_grad():
            for weights in model.parameters():
                weights *= torch.tensor(signs(rng, weights.shape))
    is_other = {name: seed if perturbed == name else 0 for name in PERTURBED}
    rates = LR * (signs(rng, (steps,)) if is_other["learning rates"] else np.ones(steps))
    images = np.random.default_rng(is_other["validation images"]).permutation(len(held_out[1]))
    return Setting(
        model,
        rates,
        mnist.random_batches(data, is_other["training batches"], steps, batch_size),
        tuple(part[images[:VALIDATION]] for part in held_out),
    )


def loss_fn(model: nn.Module, batch: mnist.Batch) -> Tensor:
    return F.cross_entropy(model(batch[0].double()), batch[1])


def run(given: Setting) -> Array:
    """Hypergradient of each step's learning rate, shape (steps,)."""
    result = hypergradient(
        given.model,
        loss_fn,
        SGD(Schedule("lr", given.rates.tolist())),
        given.batches,
        given.validation,
        steps=len(given.rates),
        mode="reverse",
        estimate="exact",
    )
    assert result.per_step is not None
    return result.per_step["lr"]


def run_greedily(given: Setting) -> Array:
    """Derivative of the validation loss after a step by its learning rate, of every 20th step."""
    weights, slopes = list(given.model.parameters()), list[float]()
    for step, rate in enumerate(given.rates):
        gradient = torch.autograd.grad(loss_fn(given.model, given.batches(step)), weights)
        with torch.no_grad():
            for weight, part in zip(weights, gradient, strict=True):
                weight -= rate * part
        if step % GREEDY_EVERY == 0:
            after = torch.autograd.grad(loss_fn(given.model, given.validation), weights)
            slopes.append(-sum(float((v * g).sum()) for v, g in zip(after, gradient, strict=True)))
    return np.array(slopes)


def shared(runs: Array, width: int) -> Array:
    """Mean over windows of ``width`` steps, shape (runs, windows)."""
    complete = runs[:, : runs.shape[1] // width * width]
    return np.asarray(complete.reshape(len(runs), -1, width).mean(axis=2))


def draw(measured: dict[str, Array], greedy: dict[str, Array], path: Path) -> None:
    """Runs on the left, then the measures by width."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    draw_runs(axes[0], measured[PERTURBED[0]])
    steps = next(iter(measured.values())).shape[1]
    widths = [w for w in (1, 2, 5, 10, 20, 40, 80, 200) if w <= steps // 2]
    for name, runs in measured.items():
        for axis, measure in zip(axes[1:], (hypervariance, sign_fluctuation), strict=True):
            # Hypervariance explodes where a mean is near zero: the median says more than the mean.
            center = np.median if measure is hypervariance else np.mean
            values = [float(center(measure(shared(runs, width)))) for width in widths]
            axis.plot(widths, values, "o-", color=COLORS[name], label=name, markersize=4)
            axis.axhline(float(center(measure(greedy[name]))), color=COLORS[name], linestyle=":")
            if axis is axes[1] and name == PERTURBED[0]:
                guide = values[0] / np.sqrt(widths)
                axis.plot(widths, guide, "--", color="0.6", label="1/√width", zorder=0)
    axes[1].set(
        title="hypervariance, median over windows",
        xscale="log",
        yscale="log",
        xlabel="steps that share a learning rate",
        ylabel="standard deviation / |mean|",
    )
    axes[2].set(
        title="sign fluctuation, mean over windows",
        xscale="log",
        ylim=(0, 0.5),
        xlabel="steps that share a learning rate",
        ylabel="min(P₋, P₊) / P",
    )
    axes[2].legend(*axes[1].get_legend_handles_labels(), title="perturbed", fontsize=8)
    for axis in axes[1:]:
        axis.set_xticks(widths, [str(width) for width in widths], minor=False)
        axis.set_xticks([], minor=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_runs(axis: Axes, runs: Array) -> None:
    """Hypergradients step by step, and shared, when other training batches are drawn."""
    steps = np.arange(runs.shape[1])
    low, high = np.percentile(runs, [10, 90], axis=0)
    axis.fill_between(steps, low, high, color="0.85", label="each step, 10 to 90 % of runs")
    for i, one in enumerate(shared(runs, DRAWN)):
        label = f"{DRAWN} steps share, each run" if i == 0 else None
        axis.stairs(one, np.arange(len(one) + 1) * DRAWN, baseline=None, color="C0", label=label)
    axis.axhline(0, color="black", linewidth=0.6)
    edge = 1.2 * float(np.percentile(np.abs([low, high]), 97))
    axis.set(title="hypergradients, other training batches", xlabel="training step")
    axis.set(ylabel="∂ loss / ∂ learning rate of a step", ylim=(-edge, edge))
    axis.legend(fontsize=8, loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=6, help="for each perturbation")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--figure", type=Path, default=Path("hypervariance.png"))
    parser.add_argument("--json", type=Path, help="write the table here")
    args = parser.parse_args()
    data, batches = mnist.load(args.data_root)
    held_out = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    measured, greedy, rows = {}, {}, {}
    print(f"{'perturbed':>18}  hypervariance, sign fluctuation: one step; {DRAWN} steps; greedy")
    for name in PERTURBED:
        given = partial(setting, data, held_out, name, steps=args.steps, batch_size=args.batch_size)
        measured[name] = np.array([run(given(seed=seed)) for seed in range(args.runs)])
        greedy[name] = np.array([run_greedily(given(seed=seed)) for seed in range(args.runs)])
        kinds = {str(width): shared(measured[name], width) for width in (1, DRAWN)}
        rows[name] = {
            kind: [float(np.median(hypervariance(runs))), float(np.mean(sign_fluctuation(runs)))]
            for kind, runs in {**kinds, "greedy": greedy[name]}.items()
        }
        cells = "; ".join(f"{noise:6.2f} {flips:6.1%}" for noise, flips in rows[name].values())
        print(f"{name:>18}  {cells}", flush=True)
    draw(measured, greedy, args.figure)
    print(f"wrote {args.figure}")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
