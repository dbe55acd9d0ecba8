"""Jobs of the arena on which searches used to stall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import scripts

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys, optuna
sys.path[:0] = {paths}
optuna.logging.set_verbosity(30)
from pathlib import Path
import torch
torch.set_num_threads(1)
import arena
from catalogue import JOBS
from optuna_hypergrad import GradientSampler, recommended
from samplers import SAMPLERS
job, entry = JOBS[{job!r}], SAMPLERS["ours"]
data = job.data(Path("."))
plain = arena.PlainTraining(job, data)
found = []
for seed in {seeds}:
    sampler = GradientSampler(seed=seed, start={start!r})
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: arena.objective(trial, job, entry, data, plain), n_trials={n})
    found.append([study.trials[0].value, study.best_value, recommended(study).value])
print(json.dumps(found))
"""


def searches(
    job: str, start: dict[str, float], seeds: list[int], n: int
) -> list[tuple[float, float, float]]:
    """First, best and recommended validation loss of searches on a job of the arena."""
    paths = [str(ROOT / "examples" / part) for part in ("arena", "benchmarks")]
    code = CODE.format(paths=paths, job=job, start=start, seeds=seeds, n=n)
    done = scripts.run("-c", code)
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]


def test_a_search_from_a_rate_that_learns_nothing_does_not_stall() -> None:
    for first, best, advice in searches("breast-cancer-60", {"lr": 1e-5}, [0, 1], 22):
        assert first > 0.6
        assert best < 0.08
        assert advice < 0.12


@pytest.mark.slow
def test_longer_trainings_from_there_do_not_stall_for_any_of_four_seeds() -> None:
    for first, best, advice in searches("breast-cancer", {"lr": 1e-5}, [0, 1, 2, 3], 30):
        assert first > 0.5
        assert best < 0.06
        assert advice < 0.1
