"""The arena, in small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import optuna
import pytest

import scripts

ROOT = Path(__file__).parents[2]
ARENA = ROOT / "examples" / "arena"


def in_arena(code: str) -> str:
    """What code prints that imports modules of the arena."""
    paths = [str(ARENA), str(ROOT / "examples" / "benchmarks")]
    start = f"import sys, optuna\nsys.path[:0] = {paths}\noptuna.logging.set_verbosity(30)\n"
    done = scripts.run("-c", start + code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('arena')}/arena.db"


def run(storage: str, *options: str) -> CompletedProcess[str]:
    few = ["--jobs", "breast-cancer-60", "--samplers", "random", "ours", "--seeds", "0"]
    done = scripts.run(
        ARENA / "arena.py", "--data", ".", "--storage", storage, *few, "--budget", "3", *options
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_cells_run_to_the_budget_once_and_are_judged(storage: str, tmp_path: Path) -> None:
    assert len(run(storage).stdout.splitlines()) == 2
    assert run(storage).stdout == ""
    for sampler in ("random", "ours"):
        study = optuna.load_study(study_name=f"breast-cancer-60/{sampler}/0", storage=storage)
        judged = study.user_attrs["judged"]["3"]
        assert len(judged["losses"]) == len(judged["accuracies"]) == 5
        assert len(set(judged["losses"])) == 5
        assert sum(trial.user_attrs["cost"] for trial in study.trials) >= 3
        start = study.trials[0].params
        assert start["lr_0"] == pytest.approx(10**-2.5) and start["beta1"] == 0.745

    shutil.copy(ROOT / "docs" / "arena.md", tmp_path)
    out = tmp_path / "results" / "arena.json"
    done = scripts.run(ARENA / "table.py", "--storage", storage, "--out", out, "--docs", tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())["scores"]["breast-cancer-60"]
    best = min(scores[name]["3"]["losses"][0] for name in scores)
    page = (tmp_path / "arena.md").read_text()
    assert f"**{best:.4g}** (" in page and "At 3 plain trainings" in page
    assert (tmp_path / "arena.png").stat().st_size > 5_000


def test_all_jobs_have_their_dimensions() -> None:
    code = "from catalogue import JOBS\nprint({n: len(j.distributions()) for n, j in JOBS.items()})"
    dimensions = eval(in_arena(code))
    assert dimensions["digits-sgd"] == 3 and dimensions["lenet"] == 30
    assert dimensions["weights-100"] == 100 and dimensions["weights-1000"] == 1000
    few = ("digits-readme", "digits-adam", "tabular", "lstm", "transformer")
    assert {dimensions[name] for name in few} == {9}


def test_all_ways_to_train_give_the_same_weights_and_one_step_the_same_hypergradient() -> None:
    code = """
from dataclasses import replace
from catalogue import JOBS
from greedy import train_greedily
from training import train, train_with_hypergradients
for name in ("digits-adam", "tabular", "weights-100"):
    job = JOBS[name]
    training, data = replace(job.plain_training(), steps=20), job.data(None)
    plain, learned = train(training, data, 5), train_with_hypergradients(training, data, 5)
    greedy = train_greedily(training, data, 5)
    assert abs(plain.loss - learned.loss) < 1e-5 * plain.loss, (name, plain.loss, learned.loss)
    assert abs(plain.loss - greedy.loss) < 1e-5 * plain.loss, (name, plain.loss, greedy.loss)
    once = replace(training, steps=1)
    exact = train_with_hypergradients(once, data, 5).hypergradient.gradient
    greedy = train_greedily(once, data, 5).hypergradient
    for key, value in exact.items():
        assert abs(greedy.get(key, 0.0) - value) < 1e-5 * abs(value) + 1e-9, (name, key)
"""
    assert in_arena(code) == ""


def test_a_budget_holds_the_trials_that_had_ended() -> None:
    code = """
from cells import within
study = optuna.create_study()
for cost in (6.0, 3.8, 0.4, 1.0):
    trial = study.ask()
    trial.set_user_attr("cost", cost)
    study.tell(trial, 0.0)
print([len(within(study, budget)) for budget in (3, 9, 10, 11)])
"""
    assert in_arena(code).strip() == "[1, 1, 3, 4]"


def test_advice_is_the_best_trial_whatever_trials_are_missing() -> None:
    code = """
from cells import advice
from samplers import SAMPLERS
study = optuna.create_study()
for loss in (3.0, 1.0, 0.5, 2.0):
    trial = study.ask()
    trial.suggest_float("x", 0, 10)
    study.tell(trial, loss)
trials = [trial for trial in study.trials if trial.number != 2]
best_trial, best = advice(trials, SAMPLERS["tpe"])
print(best_trial.params == study.trials[1].params, best)
"""
    assert in_arena(code).strip() == "True 1.0"


def test_ranks_are_those_among_the_samplers_of_each_job() -> None:
    code = """
from results import Score, ranks
def score(*losses):
    return {"10": Score(list(losses), [], [0.0], [1])}
scores = {
    "digits-sgd": {"random": score(0.3, 0.5), "tpe": score(0.1, 0.2), "ours": score(0.25, 0.35)},
    "mixed": {"random": score(0.2, 0.2), "ours": score(0.1, 0.1)},
    "tabular": {"ours": score(0.1, 0.1)},
}
print({name: (rank.mean, rank.jobs) for name, rank in ranks(scores, scores, "10").items()})
"""
    assert eval(in_arena(code)) == {"random": (2.5, 2), "tpe": (1.0, 1), "ours": (1.5, 2)}
