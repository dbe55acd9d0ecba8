"""A population that learns how to regularise a classifier of handwritten digits.

Eight hypernetworks, trained on 400 of scikit-learn's digits, learn the strength of their input
noise and three dropout rates during training. Mutated clones of the best replace the worst:

    python examples/digits_population.py

The study is stored in digits_population.db, the checkpoints in digits_population/, and
digits_population.png shows what the members learned. Stop it at any time and run it again, or run
it twice at once: the population continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sqlalchemy import make_url
from torch import Tensor, nn

from optuna_hypergrad import PopulationSampler, lineage, members, report_hypergradient, trial_seed
from optuna_hypergrad.hypernet import (
    Bounded,
    Conditioning,
    HyperDropout,
    HyperNoise,
    HyperTraining,
    convert,
)
from optuna_hypergrad.visualization.matplotlib import plot_population

STEPS, BATCH_SIZE, LR = 60, 64, 0.05  # of a segment
RANGES = {
    "noise": (0.0, 1.0),  # standard deviation; pixels are in [0, 1]
    "dropout_input": (0.0, 0.8),
    "dropout_0": (0.0, 0.9),
    "dropout_1": (0.0, 0.9),
}
Batch = tuple[Tensor, Tensor]


class Digits(NamedTuple):
    """Images, scaled to [0, 1], and labels, in four parts."""

    train: Batch
    validation: Batch  # for hypergradients
    selection: Batch  # to compare members
    test: Batch

    @classmethod
    def load(cls) -> Digits:
        images, labels = load_digits(return_X_y=True)
        rest = (images / 16).astype(np.float32), labels
        parts = []
        for size in (400, 400, 400):
            x, left_x, y, left_y = train_test_split(
                *rest, train_size=size, random_state=0, stratify=rest[1]
            )
            parts.append((torch.tensor(x), torch.tensor(y)))
            rest = left_x, left_y
        return cls(*parts, (torch.tensor(rest[0]), torch.tensor(rest[1])))


def network() -> nn.Module:
    return nn.Sequential(
        HyperNoise("noise"),
        HyperDropout("dropout_input"),
        nn.Linear(64, 128),
        nn.ReLU(),
        HyperDropout("dropout_0"),
        nn.Linear(128, 128),
        nn.ReLU(),
        HyperDropout("dropout_1"),
        nn.Linear(128, 10),
    )


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def draw(data: Batch) -> Batch:
    chosen = torch.randint(len(data[0]), (BATCH_SIZE,))
    return data[0][chosen], data[1][chosen]


def new_training(values: dict[str, float], seed: int) -> HyperTraining:
    """The training of a new network, which it holds together with its optimizer."""
    torch.manual_seed(seed)
    transforms = {name: Bounded(low, high) for name, (low, high) in RANGES.items()}
    model = convert(network(), Conditioning(transforms, values))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    return HyperTraining(model, loss_fn, optimizer, lr=0.03)


def evaluate(model: nn.Module, data: Batch) -> tuple[float, float]:
    """Loss and accuracy."""
    model.eval()
    with torch.no_grad():
        hits = (model(data[0]).argmax(dim=1) == data[1]).double().mean()
        loss = loss_fn(model, data)
    model.train()
    return float(loss), float(hits)


class Objective:
    """One segment of a member."""

    def __init__(self, data: Digits, store: FileSystemArtifactStore) -> None:
        self.data, self.store = data, store

    def __call__(self, trial: optuna.Trial) -> float:
        member = members.begin(trial, self.store)
        values = {n: trial.suggest_float(n, low, high) for n, (low, high) in RANGES.items()}
        training = new_training(values, trial_seed(trial))
        parts = {
            "student": training.student,
            "optimizer": training.optimizer,
            "training": training,
        }
        before = member.restore(**parts).get("steps", 0)
        report_hypergradient(trial, training.hypergradient(self.data.validation))
        self.train(training)
        member.refined(training.values)
        member.save(**parts, steps=before + STEPS)
        loss, _ = evaluate(training.student, self.data.selection)
        test_loss, accuracy = evaluate(training.student, self.data.test)
        trial.set_user_attr("test_loss", test_loss)
        trial.set_user_attr("test_accuracy", accuracy)
        return loss

    def train(self, training: HyperTraining) -> None:
        for _ in range(STEPS):
            training.step(draw(self.data.train), draw(self.data.validation))


def print_lineage(study: optuna.Study) -> None:
    """Print the segments that led to the best one."""
    print("generation trial  member    loss   " + " ".join(f"{name:>14}" for name in RANGES))
    for segment in lineage(study):
        began = [f"{segment.params[n]:.2f} →{segment.ended[n]:5.2f}" for n in RANGES]
        place = "explorer" if segment.member is None else str(segment.member)
        mark = "clone" if segment.is_clone else ""
        print(
            f"{segment.generation:10d} {segment.trial:5d} {place:>7} {segment.value:7.4f}   "
            + " ".join(f"{text:>14}" for text in began)
            + f"  {mark}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", default="sqlite:///digits_population.db")
    parser.add_argument("--figure", type=Path, default=Path("digits_population.png"))
    parser.add_argument("--artifacts", type=Path, default=Path("digits_population"))
    args = parser.parse_args()
    for name in ("population", "generations"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def main() -> None:
    args = parse_arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # more threads are slower for such small networks
    args.artifacts.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(args.artifacts)
    study = optuna.create_study(
        study_name=f"digits-population-{args.seed}",
        storage=args.storage,
        sampler=PopulationSampler(seed=args.seed, population_size=args.population),
        load_if_exists=True,
    )
    n_trials = args.population * args.generations
    done = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    place = make_url(args.storage).render_as_string()  # without its password
    print(f"{study.study_name}: {done} of {n_trials} segments done in {place}")
    study.optimize(Objective(Digits.load(), store), n_trials=max(n_trials - done, 0))

    print_lineage(study)
    best = study.best_trial
    print(
        f"best segment: trial {best.number}, selection loss {best.value:.4f}; held-out test data: "
        f"loss {best.user_attrs['test_loss']:.4f}, accuracy {best.user_attrs['test_accuracy']:.1%}"
    )
    sizes = [file.stat().st_size for file in args.artifacts.iterdir()]
    print(f"checkpoints in {args.artifacts}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")
    plot_population(study).savefig(args.figure, dpi=80)
    print(f"wrote {args.figure}: the hyperparameters of all members")


if __name__ == "__main__":
    main()
