"""Compare population-based methods on digits with equal compute.

Every method gets as many segments as HPM, and segments of equal cost: a step of hypertraining (one
of the doubled weights, half a validation step) takes about four times as long as a step of a plain
network, and one and a half times as long as one without validation steps. So PBT takes four times
as many steps, and HPM without hypertraining one and a half times. The time that segments took is
printed.

    python examples/benchmarks/digits_methods.py --seeds 5 --json digits_methods.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import TrialState
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits_population import LR, RANGES, STEPS, Digits, Objective, draw, evaluate, loss_fn
from methods import METHODS

from optuna_hypergrad import PopulationSampler, members, trial_seed
from optuna_hypergrad.hypernet import HyperTraining

POPULATION = 8


class Noise(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.randn_like(x) if self.training else x


class Plain(Objective):
    """Segments of a plain network, whose hyperparameters only mutate."""

    def __call__(self, trial: optuna.Trial) -> float:
        member = members.begin(trial, self.store)
        noise, *rates = (trial.suggest_float(n, low, high) for n, (low, high) in RANGES.items())
        torch.manual_seed(trial_seed(trial))
        student = nn.Sequential(
            *(Noise(noise), nn.Dropout(rates[0])),
            *(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(rates[1])),
            *(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(rates[2])),
            nn.Linear(128, 10),
        )
        optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=0.9)
        member.restore(student=student, optimizer=optimizer)
        for _ in range(4 * STEPS):
            loss = loss_fn(student, draw(self.data.train))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        member.save(student=student, optimizer=optimizer)
        trial.set_user_attr("test_loss", evaluate(student, self.data.test)[0])
        return evaluate(student, self.data.selection)[0]


class WithoutHypertraining(Objective):
    """Segments of a hypernetwork whose hyperparameters stay until they mutate."""

    def train(self, training: HyperTraining) -> None:
        for _ in range(round(1.5 * STEPS)):
            training.train_step(draw(self.data.train))


OBJECTIVES = {"PBT": Plain, "HPM w/o hypertraining": WithoutHypertraining}


def run(method: str, generations: int, seed: int) -> dict[str, float]:
    """Selection and test loss of the member with the best selection loss."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = PopulationSampler(seed=seed, **{"population_size": POPULATION, **METHODS[method]})
    study = optuna.create_study(sampler=sampler)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        objective = OBJECTIVES.get(method, Objective)(
            Digits.load(), FileSystemArtifactStore(folder)
        )
        study.optimize(objective, n_trials=POPULATION * generations)
    failed = len(study.get_trials(deepcopy=False, states=[TrialState.FAIL]))
    best = study.best_trial
    return {
        "validation": best.value,
        "test": best.user_attrs["test_loss"],
        "failed": failed,
        "seconds": time.perf_counter() - began,
    }


def spread(results: list[dict[str, float]], key: str) -> str:
    values = [result[key] for result in results]
    return f"{fmean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    print(
        f"{'mean ± standard deviation':28s} {'validation loss':>17s} {'test loss':>17s}  s/segment"
    )
    with ProcessPoolExecutor(args.processes) as pool:
        for method in args.methods:
            results = found[method] = list(
                pool.map(partial(run, method, args.generations), range(args.seeds))
            )
            took = fmean(result["seconds"] for result in results) / (POPULATION * args.generations)
            cells = [spread(results, key) for key in ("validation", "test")]
            print(f"{method:28s} {cells[0]:>17s} {cells[1]:>17s}  {took:.3f}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
