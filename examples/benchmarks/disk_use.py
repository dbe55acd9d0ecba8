"""Measure the bytes on disk of a run of 20 members over 50 generations, with and without removal.

The networks of examples/digits_population.py, with segments of one training step:

    python examples/benchmarks/disk_use.py --json disk_use.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits_population import RANGES, Digits, draw, evaluate, new_training

from optuna_hypergrad import PopulationSampler, members, trial_seed
from optuna_hypergrad.members import Keep


class Watched:
    """Segments of one step; records the maximum of bytes on disk after one."""

    def __init__(self, folder: Path, keep: Keep) -> None:
        self.folder, self.keep = folder, keep
        self.store, self.data = FileSystemArtifactStore(folder), Digits.load()
        self.most = 0

    def __call__(self, trial: optuna.Trial) -> float:
        member = members.begin(trial, self.store, keep=self.keep)
        values = {n: trial.suggest_float(n, low, high) for n, (low, high) in RANGES.items()}
        training = new_training(values, trial_seed(trial))
        parts = {
            "student": training.student,
            "optimizer": training.optimizer,
            "training": training,
        }
        member.restore(**parts)
        training.train_step(draw(self.data.train))
        member.save(**parts)
        self.most = max(self.most, self.bytes())
        return evaluate(training.student, self.data.selection)[0]

    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())


def measure(keep: Keep, population: int, generations: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        watched = Watched(Path(folder), keep)
        study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=population))
        study.optimize(watched, n_trials=population * generations)
        files = len(list(Path(folder).iterdir()))
        return {"files": files, "bytes": watched.bytes(), "most bytes": watched.most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for keep in ("living", "all"):
        found[keep] = result = measure(keep, args.population, args.generations)
        print(
            f"keep={keep!r}: {result['files']} files, {result['bytes'] / 1e6:.1f} MB at the end, "
            f"{result['most bytes'] / 1e6:.1f} MB at most"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
