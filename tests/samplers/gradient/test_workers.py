"""Several workers, and workers that die: replicates, frozen decisions, replays."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

import scripts
from optuna_hypergrad import GradientSampler
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.reports.claims import Claim, Rule
from optuna_hypergrad.samplers.gradient.chains import ancestry, deciding_trials
from optuna_hypergrad.samplers.gradient.search import ClaimedTrial, Search, decisions
from optuna_hypergrad.samplers.gradient.table import Table
from samplers.studies import ask, claims, create, finish, points, quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")

WORKER = Path(__file__).with_name("worker.py")
RULE = Rule(safeguard=0.05, start={}, step_size={}, n_replicates=1, tolerance=1e-3)


def assert_path_is_frozen(study: optuna.Study) -> None:
    """Every trial ran what its claim, read now, still says that it had to run."""
    table = Table(RULE, maximize=False)
    table.read(study.get_trials(deepcopy=False))
    points_after: dict[object, dict[str, float]] = {}
    claimed = [one for steps in table.steps.values() for step in steps for one in step]
    for one in claimed:
        path = ancestry(table.steps[one.claim.chain], one.claim)
        key = tuple(tuple(parent.trial.number for parent in used) for used in path)
        if key not in points_after:
            search = decisions(path, RULE, False)[-1].after if path else Search.over({})
            points_after[key] = search.point()
        for name, value in points_after[key].items():
            assert one.trial.params.get(name, value) == pytest.approx(value, abs=1e-12)


def test_who_asks_while_a_step_runs_gets_a_replicate_of_it() -> None:
    study = create()
    trials = [ask(study) for _ in range(3)]
    assert claims(study) == [(0, 0)] * 3
    finish(study, trials[1])
    assert ask(study).params["x"] == -0.1 and claims(study)[3] == (0, 1)


def test_a_step_is_decided_on_the_mean_of_its_replicates() -> None:
    study = create(GradientSampler(n_replicates=3))
    trials = [ask(study) for _ in range(4)]
    for trial, gradient in zip(trials, (1.0, 1.0, -5.0), strict=False):
        finish(study, trial, gradient=gradient)
    assert ask(study).params["x"] == pytest.approx(0.1)
    assert study.trials[4].user_attrs["hg:agreement"] == pytest.approx(1 / 3)


def test_a_late_replicate_never_rewrites_the_path() -> None:
    study = create()
    first, late = ask(study), ask(study)
    finish(study, first, gradient=1.0)
    second = ask(study)
    finish(study, late, gradient=-1000.0)
    replicate = ask(study)
    assert second.params == replicate.params == {"x": -0.1, "y": -0.1}
    finish(study, second, gradient=1.0)
    assert ask(study).params == pytest.approx({"x": -0.2, "y": -0.2})


def test_replicates_repeat_what_the_independent_sampler_drew() -> None:
    study = create(GradientSampler(seed=0, n_replicates=2))
    kinds = []
    for _ in range(6):
        trials = [ask(study) for _ in range(2)]
        kinds += [trial.suggest_categorical("kind", [*"abcdefgh"]) for trial in trials]
        for trial in trials:
            trial.params.pop("kind")
            finish_floats(study, trial)
    assert kinds[::2] == kinds[1::2]
    assert len(set(kinds)) > 1
    assert [step for _, step in claims(study)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def finish_floats(study: optuna.Study, trial: optuna.Trial) -> None:
    from optuna_hypergrad import report_hypergradient

    report_hypergradient(trial, {"x": 1.0, "y": 1.0})
    study.tell(trial, 1.0)


@pytest.mark.parametrize("seed", range(6))  # each number of chains with each of replicates
def test_any_order_of_finishing_leaves_a_frozen_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_chains, n_replicates = 1 + seed % 2, 1 + seed % 3
    study = create(
        GradientSampler(seed=seed, safeguard=0.05, n_chains=n_chains, n_replicates=n_replicates)
    )
    running: list[optuna.Trial] = []
    for turn in range(150):
        if len(running) < 4 and rng.random() < 0.6:
            running.append(ask(study))
        elif running:
            trial = running.pop(int(rng.integers(len(running))))
            fate = rng.random()
            if fate < 0.1:
                study.tell(trial, state=TrialState.FAIL)
            elif fate < 0.15:
                finish(study, trial, rng.normal(), gradient=float("nan"))
            elif fate < 0.2:
                continue  # killed: it runs for ever
            else:
                finish(study, trial, rng.normal(), gradient=lambda name: rng.normal())
        if turn % 10 == 9:
            assert_path_is_frozen(study)
    assert max(step for _, step in claims(study)) > 5


def test_threads_share_one_sampler() -> None:
    study = create(GradientSampler(seed=0, stop_when_converged=False))
    study.optimize(quadratic, n_trials=40, n_jobs=4)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert_path_is_frozen(study)
    assert study.best_value < 0.01


def start(storage: str, trials: int, *hang: object) -> scripts.Running:
    return scripts.start(WORKER, storage, trials, *hang)


def test_two_processes_share_one_sqlite_file(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = create(storage=storage, study_name="shared")
    workers = [start(storage, 15) for _ in range(2)]
    assert [worker.wait().returncode for worker in workers] == [0, 0]
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == 30 and all(t.state == TrialState.COMPLETE for t in trials)
    steps = [step for _, step in claims(study)]
    assert set(steps) == set(range(max(steps) + 1)) and max(steps) >= 14
    assert_path_is_frozen(study)


def test_another_process_proposes_the_same_next_point(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    alone = create()
    alone.optimize(quadratic, n_trials=9)
    shared = create(storage=storage, study_name="shared")
    for _ in range(3):
        assert start(storage, 3).wait().returncode == 0
    assert points(shared) == points(alone)


def test_a_killed_worker_costs_its_trial_and_nothing_else(tmp_path: Path) -> None:
    storage, sign_of_life = f"sqlite:///{tmp_path}/study.db", tmp_path / "hangs"
    shared = create(storage=storage, study_name="shared")
    worker = start(storage, 10, 4, sign_of_life)
    deadline = time.monotonic() + 60
    while not sign_of_life.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.kill()
    assert shared.trials[4].state == TrialState.RUNNING
    assert start(storage, 6).wait().returncode == 0
    alone = create()
    alone.optimize(quadratic, n_trials=10)
    survived = points(shared)
    killed = survived.pop(4)
    assert survived == points(alone)
    assert killed == {"x": survived[4]["x"]}


def test_claims_that_are_based_on_nothing_are_reported() -> None:
    study = create()
    finish(study, ask(study))
    ask(study)
    claim = study.trials[1].system_attrs["hg:claim"]
    study._storage.set_trial_system_attr(1, "hg:claim", {**claim, "used": [7]})
    assert ask(study).params["x"] == -0.1  # trial 7 may yet come: the claim has to wait
    with pytest.raises(
        StoredDataError,
        match=r"is based on trials \[7\], but those of step 0 that have finished are .*0",
    ):
        study.tell(1, state=TrialState.FAIL)
    with pytest.raises(StoredDataError, match=r"trial 1 is based on trials \[7\], which have not"):
        study.ask()


@pytest.mark.parametrize(("x", "used"), [(0.0, [0]), (0.9, [])])
def test_a_superfluous_replicate_closes_a_step_for_its_own_point_alone(
    x: float, used: list[int]
) -> None:
    def one(number: int, x: float, **arguments: Any) -> ClaimedTrial:
        trial = create_trial(
            params={"x": x}, distributions={"x": FloatDistribution(-1, 1)}, **arguments
        )
        trial.number = number
        return ClaimedTrial.of(trial, Claim(number, 0, 0, 0))

    gradient = {"hg:gradient": {"trial": 0, "values": {"x": 1.0}}}
    mark = {"hg:superfluous": {"trial": 1}}
    step = [
        one(0, 0.0, value=1.0, system_attrs=gradient),
        one(1, x, state=TrialState.PRUNED, system_attrs=mark),
    ]
    assert [one.trial.number for one in deciding_trials([step], n_replicates=3)] == used
