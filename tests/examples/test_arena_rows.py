"""Jobs of the arena on which searches used to stall."""

from __future__ import annotations

import json
import os
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
from catalogue import JOBS
from running import PlainTraining, objective
from optuna_hypergrad import recommended
from samplers import SAMPLERS
job, entry = JOBS[{job!r}], SAMPLERS[{sampler!r}]
data = job.data(Path({data!r}))
plain = PlainTraining(job, data)
found = []
for seed in {seeds}:
    start = {start!r} or job.start_values()
    study = optuna.create_study(sampler=entry.make(seed, start))
    if not entry.has_start:
        study.enqueue_trial(start)
    study.optimize(lambda trial: objective(trial, job, entry, data, plain), n_trials={n})
    found.append([study.trials[0].value, study.best_value, recommended(study).value])
print(json.dumps(found))
"""


def searches(
    job: str,
    start: dict[str, float],
    seeds: list[int],
    n: int,
    sampler: str = "ours",
    data: str = ".",
) -> list[tuple[float, float, float]]:
    """First, best and recommended validation loss of searches on a job of the arena.

    ``start`` is by schedule or parameter; where it is empty, that of the job.
    """
    paths = [str(ROOT / "examples" / part) for part in ("arena", "benchmarks")]
    code = CODE.format(
        paths=paths, job=job, start=start, seeds=seeds, n=n, sampler=sampler, data=data
    )
    done = scripts.run("-c", code)
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]


@pytest.mark.slow
def test_a_search_from_a_rate_that_learns_nothing_does_not_stall() -> None:
    for first, best, advice in searches("breast-cancer-60", {"lr": 1e-5}, [0, 1], 22):
        assert first > 0.6
        assert best < 0.08
        assert advice < 0.12


@pytest.mark.slow
def test_longer_trainings_from_there_do_not_stall_for_any_of_four_seeds() -> None:
    for first, best, advice in searches("breast-cancer-bad", {"lr": 1e-5}, [0, 1, 2, 3], 30):
        assert first > 0.5
        assert best < 0.06
        assert advice < 0.1


@pytest.mark.slow
def test_a_search_beats_tpe_with_readmes_objective_while_trainings_are_few() -> None:
    ours, others = (
        [one[2] for one in searches("readme", {}, [0, 1, 2], 20, name)] for name in ("ours", "tpe")
    )
    assert max(ours) < 0.12
    assert sum(ours) < sum(others)


@pytest.mark.slow
def test_a_search_improves_on_a_decent_start() -> None:
    start = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-2}
    for first, best, _ in searches("breast-cancer", start, [0, 1], 25):
        assert best < 0.5 * first


@pytest.mark.slow
def test_a_search_on_the_transformer_goes_on_improving() -> None:
    data = os.environ.get("ARENA_DATA")
    if data is None:
        pytest.skip("set ARENA_DATA to a folder with tinyshakespeare.txt")
    ((first, best, advice),) = searches("transformer", {}, [0], 15, data=data)
    assert best < advice + 0.05 < first - 0.1
