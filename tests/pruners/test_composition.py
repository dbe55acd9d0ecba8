"""Our pruners with Optuna's own, and Optuna's own beside our samplers."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner, PatientPruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from optuna_hypergrad import (
    ConsensusPruner,
    DivergencePruner,
    GradientSampler,
    PopulationSampler,
    TruncationPruner,
    report_hypergradient,
)
from pruners.trials import is_pruned, reported
from samplers.populations import assert_no_gaps, segments
from samplers.studies import ask, claims, finish

pytestmark = pytest.mark.usefixtures("sign_descent")

OURS: list[Callable[[], BasePruner]] = [DivergencePruner, TruncationPruner, ConsensusPruner]
SAMPLERS: list[Callable[[], BaseSampler]] = [
    lambda: GradientSampler(seed=0, stop_when_converged=False),
    lambda: PopulationSampler(seed=0, population_size=4),
]


def patient(pruner: BasePruner, patience: int) -> PatientPruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(pruner, patience=patience)


def curve(trial: optuna.Trial) -> float:
    """(x − 0.3)², approached in nine steps."""
    x = trial.suggest_float("x", -1, 1)
    for step in range(9):
        trial.report((x - 0.3) ** 2 + 1 / (1 + step), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    report_hypergradient(trial, {"x": 2 * (x - 0.3)})
    return (x - 0.3) ** 2


def test_patience_waits_while_the_loss_still_falls() -> None:
    pruner = patient(DivergencePruner(), patience=2)
    assert not is_pruned(pruner, reported([1.0, 999.0]))
    assert not is_pruned(pruner, reported([1.0, 999.0, 0.5]))
    assert is_pruned(pruner, reported([1.0, 999.0, 999.0, 999.0]))
    assert not is_pruned(pruner, reported([1.0, 2.0, 2.0, 2.0]))


def test_patience_passes_on_what_consensus_needs() -> None:
    study = optuna.create_study(
        sampler=GradientSampler(seed=0), pruner=patient(ConsensusPruner(), patience=1)
    )
    first, late = ask(study), ask(study)
    finish(study, first)
    late.report(1.0, 0)
    assert not late.should_prune()
    for step in (1, 2):
        late.report(2.0, step)
    assert late.should_prune()
    study.tell(late, state=TrialState.PRUNED)
    assert ask(study).params == {"x": -0.1, "y": -0.1}


def test_patience_passes_on_what_truncation_needs() -> None:
    study = optuna.create_study(
        sampler=PopulationSampler(seed=0, population_size=5, burn_in=1),
        pruner=patient(TruncationPruner(), patience=1),
    )
    study.optimize(curve, n_trials=10)
    assert TrialState.PRUNED not in {t.state for t in study.get_trials(deepcopy=False)}
    trial = study.ask()
    for step, loss in enumerate([9.0, 8.0, 8.5, 8.5]):
        assert not trial.should_prune()
        trial.report(loss, step)
    assert trial.should_prune()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["gradient", "population"])
def test_hyperband_works_beside_our_samplers(
    sampler: Callable[[], BaseSampler], tmp_path: Path
) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db",
        sampler=sampler(),
        pruner=HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3),
    )
    study.optimize(curve, n_trials=15, n_jobs=3)
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert {*states} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_value < 0.2


def test_hyperband_hides_no_trial_from_our_samplers() -> None:
    """Samplers see all brackets: the search and the lineage are those of the study."""
    gradient, population = (
        optuna.create_study(sampler=sampler(), pruner=HyperbandPruner(1, 9, 3))
        for sampler in SAMPLERS
    )
    for study in (gradient, population):
        study.optimize(curve, n_trials=40)
    steps = [step for _, step in claims(gradient)]
    assert steps == list(range(40))
    assert {t.state for t in gradient.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert_no_gaps(population)
    assert len(segments(population)) == 40


def test_hyperband_stops_with_the_search() -> None:
    study = optuna.create_study(
        sampler=GradientSampler(seed=0, tolerance=0.04), pruner=HyperbandPruner(1, 9, 3)
    )
    study.optimize(curve, n_trials=200)
    assert len(study.trials) < 200


def test_on_a_database_a_segment_is_judged_as_in_memory(tmp_path: Path) -> None:
    studies = [
        optuna.create_study(
            study_name="study",
            storage=storage,
            sampler=PopulationSampler(seed=0, population_size=4, burn_in=1),
            pruner=TruncationPruner(),
        )
        for storage in (None, f"sqlite:///{tmp_path}/study.db")
    ]
    for study in studies:
        study.optimize(curve, n_trials=12)
    in_memory, stored = ([t.state for t in study.get_trials(deepcopy=False)] for study in studies)
    assert in_memory == stored and TrialState.PRUNED in stored
    assert segments(studies[0]) == segments(studies[1])


def test_on_a_database_another_process_may_settle_a_step(tmp_path: Path) -> None:
    """Each worker has a study, a sampler and a pruner of its own."""
    workers = [
        optuna.create_study(
            study_name="study",
            storage=f"sqlite:///{tmp_path}/study.db",
            load_if_exists=True,
            sampler=GradientSampler(seed=0, n_replicates=3),
            pruner=ConsensusPruner(),
        )
        for _ in range(3)
    ]
    trials = [ask(worker) for worker in workers]
    trials[2].report(1.0, 0)
    finish(workers[0], trials[0])
    assert not trials[2].should_prune()
    finish(workers[1], trials[1])
    assert trials[2].should_prune()
    workers[2].tell(trials[2], state=TrialState.PRUNED)
    assert ask(workers[0]).params == {"x": -0.1, "y": -0.1}


@pytest.mark.parametrize("new", OURS)
def test_without_a_report_there_is_nothing_to_judge(new: Callable[[], BasePruner]) -> None:
    assert not is_pruned(new(), reported([]))
    assert not is_pruned(new(), reported([1.0]))


@pytest.mark.parametrize("new", OURS)
def test_pruners_can_be_sent_to_other_processes(new: Callable[[], BasePruner]) -> None:
    pruner = new()
    copied = pickle.loads(pickle.dumps(pruner))
    assert vars(copied) == vars(pruner)


@pytest.mark.parametrize("new", OURS)
def test_several_objectives_are_optunas_to_refuse(new: Callable[[], BasePruner]) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], pruner=new())
    with pytest.raises(NotImplementedError):
        study.ask().should_prune()
