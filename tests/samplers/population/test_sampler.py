"""What PopulationSampler decides: members, parents, refinement, mutation."""

import copy
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import (
    PopulationSampler,
    report_hypergradient,
    students,
    wants_hypergradient,
)
from optuna_hypergrad.algorithms.mutation import SLOTS, Teacher
from optuna_hypergrad.reports import read_gradient, report_refined
from optuna_hypergrad.reports.segments import Segment, Taught, read_segment, read_teacher
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.config import Mutation, PopulationConfig
from optuna_hypergrad.samplers.population.explore import explore
from optuna_hypergrad.samplers.population.hyperparameters import Numeric, continued
from samplers.populations import (
    assert_no_gaps,
    bowl,
    create,
    places,
    population_of,
    run,
    segments,
    silent,
)

MUTATIONS: list[Any] = ["surrogate", "teacher", "perturb", "resample", "hypergradient", None]


def points(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def test_members_run_generation_by_generation() -> None:
    study = create()
    study.optimize(bowl, n_trials=10)
    assert places(study) == [(n % 4, n // 4) for n in range(10)]
    assert_no_gaps(study)


def test_a_seed_repeats_a_study_and_another_does_not() -> None:
    studies = [create(seed=seed) for seed in (0, 0, 1)]
    for study in studies:
        study.optimize(bowl, n_trials=40)
    one, same, other = map(points, studies)
    assert one == same != other


def test_a_restarted_or_copied_sampler_continues_the_same_population() -> None:
    whole = create()
    whole.optimize(bowl, n_trials=40)
    parts = create()
    for n_trials in (3, 14, 23):
        parts.optimize(bowl, n_trials=n_trials)
        parts.sampler = PopulationSampler(seed=99, population_size=4)  # keeps the population's seed
        parts.sampler = pickle.loads(pickle.dumps(copy.deepcopy(parts.sampler)))
    assert points(parts) == points(whole)
    assert segments(parts) == segments(whole)


def test_members_descend_their_hypergradients() -> None:
    study = create(truncation=0.0)
    study.optimize(bowl, n_trials=80)
    assert all(abs(trial.params["x"] - 0.3) < 0.02 for trial in study.trials[-4:])


def test_the_direction_of_the_study_does_not_turn_the_hypergradient() -> None:
    sampler = PopulationSampler(seed=0, population_size=4, burn_in=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: -bowl(trial), n_trials=80)
    assert study.best_value > -1e-4
    worst = [t.number % 4 for t in sorted(study.trials[4:8], key=lambda t: t.value)]
    clones = [s.member for s in segments(study)[8:12] if s.age == 0]
    assert clones == worst[:1]


def test_refined_values_come_before_the_own_step_and_are_moved_into_the_range() -> None:
    def objective(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_float(name, -1, 1) for name in "xy")
        report_hypergradient(trial, {"x": 1.0, "y": 1.0})
        report_refined(trial, {"x": 5.0})
        return x + y

    study = create(population_size=1)
    study.optimize(objective, n_trials=2)
    first, second = points(study)
    assert second["x"] == 1.0
    assert second["y"] == pytest.approx(first["y"] - 0.1)


def test_without_refinement_values_stay_until_they_mutate() -> None:
    study = create(refine=False, truncation=0.0)
    study.optimize(bowl, n_trials=12)
    assert points(study)[:4] == points(study)[4:8] == points(study)[8:]


def test_without_reports_it_is_population_based_training() -> None:
    study = create(mutation="perturb", resample_probability=0.0)
    study.optimize(silent, n_trials=60)
    trials = study.trials
    clones = [segment for segment in segments(study) if segment.parent and segment.age == 0]
    assert clones
    for clone in clones:
        before, after = trials[clone.parent].params["x"], trials[clone.trial].params["x"]
        assert (after + 1) / (before + 1) == pytest.approx(0.8) or after == pytest.approx(
            min(-1 + 1.2 * (before + 1), 1.0)
        )
    assert all(
        trials[s.parent].params == trials[s.trial].params
        for s in segments(study)
        if s.parent is not None and s.age > 0
    )


def test_the_worst_are_replaced_by_clones_of_the_best() -> None:
    study = create(burn_in=0, population_size=5)
    for value in (0.3, 0.1, 0.5, 0.2, 0.4):
        run(study, value)
    for _ in range(5):
        run(study)
    assert [segment.parent for segment in segments(study)[5:]] == [0, 1, 1, 3, 4]
    assert [segment.age for segment in segments(study)[5:]] == [1, 1, 0, 1, 1]
    assert study.trials[7].user_attrs == {"hg:member": 2, "hg:generation": 1, "hg:parent": 1}


def test_burn_in_protects_young_members() -> None:
    study = create(burn_in=2, population_size=2)
    for number in range(12):
        run(study, float(number % 2))
    replaced = [segment.trial for segment in segments(study) if segment.age == 0]
    assert replaced == [0, 1, 7]


def test_members_are_compared_at_equal_generations() -> None:
    study = create(burn_in=0, population_size=2)
    slow = study.ask()
    slow.suggest_float("x", -1, 1)
    for value in (0.5, 0.01):
        run(study, value)  # the fast one is better when it is older
    study.tell(slow, 0.2)
    assert run(study) == 3
    assert segments(study)[3][1:3] == (0, 1)
    assert segments(study)[3].parent == 0  # 0.2 was better than 0.5 at the same age


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_values_stay_in_bounds_whatever_mutates_them(mutation: Any) -> None:
    def objective(trial: optuna.Trial) -> float:
        values = [
            trial.suggest_float("linear", -2.0, 3.0),
            trial.suggest_float("log", 1e-5, 1e-1, log=True),
            trial.suggest_float("grid", 0.0, 1.0, step=0.25),
            trial.suggest_int("int", -3, 5),
            trial.suggest_int("steps", 2, 14, step=4),
            trial.suggest_int("log_int", 1, 64, log=True),
        ]
        kind = trial.suggest_categorical("kind", ["a", "b", None])
        gradient = np.random.default_rng(trial.number).normal(size=3)
        names = ("linear", "log", "int")
        report_hypergradient(trial, dict(zip(names, gradient, strict=True)))
        return float(np.sin(37 * sum(values)) + (kind == "a"))

    study = create(mutation=mutation, truncation=0.5, burn_in=0, population_size=10)
    study.optimize(objective, n_trials=300)
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name]))
    assert sum(segment.age == 0 for segment in segments(study)) > 100


@pytest.mark.parametrize("mutation", ["teacher", "perturb", "surrogate"])
@pytest.mark.slow
def test_ten_thousand_mutations_stay_in_bounds(mutation: Mutation) -> None:
    def objective(trial: optuna.Trial) -> float:
        values = {
            "linear": trial.suggest_float("linear", -2.0, 3.0),
            "log": trial.suggest_float("log", 1e-5, 1e-1, log=True),
            "int": trial.suggest_int("int", -3, 5),
            "steps": trial.suggest_int("steps", 2, 14, step=4),
        }
        trial.suggest_categorical("kind", "abc")
        report_hypergradient(trial, values)
        return 0.0

    study = create(population_size=1)
    study.optimize(objective, n_trials=1)
    parent = population_of(study)[0]
    segment = Segment(1, 0, 1, 1, 0, "study", parent=0)
    segment, rng = continued(segment, parent, refine=True), np.random.default_rng(0)
    names, space = ("int", "linear", "log", "steps"), study.trials[0].distributions
    keys = rng.normal(size=(4, SLOTS))
    for _ in range(10_000):
        teacher = Teacher(keys, rng.normal(0, 3, keys.shape))
        taught = Taught(teacher, names) if mutation == "teacher" else None
        config = PopulationConfig(
            1, "truncation", 0.2, 1, mutation, "softmax", 0.1, True, False, None
        )

        def lowest(numeric: Numeric) -> np.ndarray:
            return rng.random(len(numeric.names))

        segment = explore(segment, parent, taught, config, rng, lowest)
        assert set(segment.queried) == (set(names) if taught else set())
        for name, value in proposed(segment.values, space).items():
            assert space[name]._contains(space[name].to_internal_repr(value))


def test_numbers_on_a_grid_move_by_a_step_at_least() -> None:
    study = create(
        mutation="perturb",
        resample_probability=0.0,
        burn_in=0,
        population_size=2,
        mutable=["n"],
    )

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("n", 0, 100, step=25)
        return float(trial.number % 2)

    study.enqueue_trial({"n": 50})
    study.optimize(objective, n_trials=40)
    moves = {
        study.trials[s.trial].params["n"] - study.trials[s.parent].params["n"]
        for s in segments(study)
        if s.parent is not None and s.age == 0 and 0 < study.trials[s.parent].params["n"] < 100
    }
    assert moves == {-25, 25}


def test_progress_of_less_than_a_step_is_not_lost_on_integers() -> None:
    def objective(trial: optuna.Trial) -> float:
        n = trial.suggest_int("n", 0, 10)
        report_hypergradient(trial, {"n": 2.0 * (n - 3)})
        return float((n - 3) ** 2)

    study = create(population_size=1)
    study.enqueue_trial({"n": 9})
    study.optimize(objective, n_trials=40)
    assert [trial.params["n"] for trial in study.trials[:3]] == [9, 8, 8]
    assert abs(study.trials[-1].params["n"] - 3) <= 1


def test_mutable_categorical_values_are_resampled_or_stay() -> None:
    def objective(trial: optuna.Trial) -> float:
        return float("abcd".index(trial.suggest_categorical("kind", [*"abcd"])))

    for probability, changes in ((0.0, False), (1.0, True)):
        study = create(
            resample_probability=probability, burn_in=0, population_size=6, mutable=("kind",)
        )
        study.optimize(objective, n_trials=60)
        clones = [s for s in segments(study) if s.parent is not None and s.age == 0]
        kinds = [t.params["kind"] for t in study.trials]
        assert clones
        assert any(kinds[s.trial] != kinds[s.parent] for s in clones) == changes


def architecture(trial: optuna.Trial) -> float:
    """A network that suggests its own shape, and two numbers, one with a hypergradient."""
    width = trial.suggest_int("width", 4, 64, log=True)
    depth = trial.suggest_int("depth", 1, 3)
    kind = trial.suggest_categorical("kind", ["tanh", "relu"])
    lr, noise = trial.suggest_float("lr", 1e-3, 1, log=True), trial.suggest_float("noise", 0, 1)
    report_hypergradient(trial, {"lr": 1.0})
    return lr + noise + 1 / width + depth + (kind == "relu")


def steps_of_students(study: optuna.Study) -> Iterator[tuple[dict[str, Any], dict[str, Any], bool]]:
    """Parameters of parent and child, and whether the child is a clone."""
    for segment in segments(study):
        if segment.parent is not None:
            before, after = study.trials[segment.parent], study.trials[segment.trial]
            yield before.params, after.params, segment.age == 0


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_member_and_its_clones_keep_integers_and_categories(mutation: Any) -> None:
    study = create(mutation=mutation, burn_in=0, population_size=6, resample_probability=0.5)
    study.optimize(architecture, n_trials=60)
    seen = [*steps_of_students(study)]
    assert sum(is_clone for _, _, is_clone in seen) > 5
    for before, after, _ in seen:
        for name in ("width", "depth", "kind"):
            assert before[name] == after[name]
    assert (
        len({(t.params["width"], t.params["depth"]) for t in study.trials[:6]}) > 3
    )  # from the start
    if mutation in ("surrogate", "teacher", "perturb", "resample"):
        for name in ("lr", "noise"):
            assert any(a[name] != b[name] for a, b, is_clone in seen if is_clone)


def test_mutable_integers_and_categories_mutate_and_others_do_not() -> None:
    study = create(
        burn_in=0, population_size=6, resample_probability=0.5, mutable=["depth", "kind"]
    )
    study.optimize(architecture, n_trials=90)
    clones = [(before, after) for before, after, is_clone in steps_of_students(study) if is_clone]
    changed = {name for before, after in clones for name in before if before[name] != after[name]}
    assert changed == {"depth", "kind", "lr", "noise"}


@pytest.mark.parametrize("refines", [True, False])
def test_an_integer_that_members_refine_mutates_as_well(refines: bool) -> None:
    def objective(trial: optuna.Trial) -> float:
        holes, width = trial.suggest_int("holes", 0, 40), trial.suggest_int("width", 4, 64)
        if refines:
            report_refined(trial, {"holes": holes + 0.6})
        else:
            report_hypergradient(trial, {"holes": 1.0})
        return float(holes) + width

    study = create(burn_in=0, mutation="perturb", resample_probability=0.0)
    study.optimize(objective, n_trials=60)
    clones = [(a, b) for a, b, is_clone in steps_of_students(study) if is_clone]
    assert clones
    assert any(abs(b["holes"] - a["holes"]) > 2 for a, b in clones)  # more than one refinement
    assert all(a["width"] == b["width"] for a, b in clones)


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("refines", [True, False])
def test_what_is_fixed_is_neither_mutated_nor_refined(mutation: Any, refines: bool) -> None:
    def objective(trial: optuna.Trial) -> float:
        scale, lr = trial.suggest_float("scale", 0, 1), trial.suggest_float("lr", 0, 1)
        report_hypergradient(trial, {"scale": 1.0, "lr": 1.0})
        if refines:
            report_refined(trial, {"scale": scale / 2, "lr": lr / 2})
        return scale + lr

    study = create(mutation=mutation, burn_in=0, resample_probability=0.5, fixed=("scale",))
    study.optimize(objective, n_trials=30)
    for before, after, _ in steps_of_students(study):
        assert before["scale"] == after["scale"]
    assert any(before["lr"] != after["lr"] for before, after, _ in steps_of_students(study))
    assert all(segment.fixed == ("scale",) for segment in segments(study))
    for one in students(study):
        assert "scale" not in one.mutations
    study.sampler = PopulationSampler(seed=1, population_size=4)  # nothing is fixed any more
    study.optimize(objective, n_trials=12)
    pairs = [*steps_of_students(study)][-12:]
    assert any(before["scale"] != after["scale"] for before, after, _ in pairs)


def test_segments_of_older_versions_fix_nothing() -> None:
    study = create()
    study.optimize(bowl, n_trials=1)
    attrs = study.get_trials(deepcopy=False)[0].system_attrs
    older = {name: value for name, value in attrs["hg:segment"].items() if name != "fixed"}
    read = read_segment(0, {**attrs, "hg:segment": older})
    assert read is not None and read.fixed == ()


def test_a_name_that_no_trial_suggests_is_logged_once(warned: list[str]) -> None:
    study = create(burn_in=0, fixed=["widht"], mutable=("depth",))
    study.optimize(architecture, n_trials=60)
    assert warned == [
        "PopulationSampler: fixed names 'widht', which no trial has suggested; they have suggested "
        "depth, kind, lr, noise, width."
    ]


def test_the_teacher_learns_and_is_stored() -> None:
    study = create(mutation="teacher", resample_probability=0.0)
    study.optimize(bowl, n_trials=200)
    taught = [read_teacher(t.number, t.system_attrs) for t in study.trials]
    steps = [one.teacher.steps for one in taught if one is not None]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] > 10
    assert taught[-1] is None or taught[-1].names == ("x",)


def test_a_stored_teacher_keeps_its_number_of_slots() -> None:
    """It is that of the version which began the study."""
    study = create(mutation="teacher", resample_probability=0.0, burn_in=0)
    study.optimize(bowl, n_trials=30)
    latest = max(t.number for t in study.trials if "hg:teacher" in t.system_attrs)
    attrs = study.get_trials(deepcopy=False)[latest].system_attrs
    for name in ("keys", "values"):
        attrs["hg:teacher"][name] = [row[:3] for row in attrs["hg:teacher"][name]]
    other = create(mutation="teacher", resample_probability=0.0, burn_in=0)
    other.add_trials(study.get_trials(deepcopy=False)[: latest + 1])

    def plane(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 0, 1)
        report_hypergradient(trial, {"x": 2 * (x - 0.3), "y": 1.0})
        return (x - 0.3) ** 2 + y

    other.optimize(plane, n_trials=30)
    taught = [read_teacher(t.number, t.system_attrs) for t in other.trials[latest:]]
    stored = [one for one in taught if one is not None]
    assert stored[0].teacher.keys.shape == (1, 3)
    assert stored[-1].teacher.keys.shape == stored[-1].teacher.values.shape == (2, 3)
    assert stored[-1].names == ("x", "y") and stored[-1].teacher.steps > stored[0].teacher.steps


def test_the_teacher_learns_from_each_student_once() -> None:
    study = create(mutation="teacher", resample_probability=0.0)
    study.optimize(bowl, n_trials=100)
    queried = [s for s in segments(study) if s.queried]
    last = max(s.trial for s in queried)
    taught = read_teacher(last, study.trials[last].system_attrs)
    assert taught is not None
    assert taught.teacher.steps == sum(s.trial < last for s in queried)


def test_one_more_hypergradient_step_on_the_clone() -> None:
    study = create(mutation="hypergradient", population_size=2, burn_in=0)
    study.enqueue_trial({"x": -0.9})
    study.enqueue_trial({"x": 0.9})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": 1.0})
        return x

    study.optimize(objective, n_trials=4)
    assert points(study)[2]["x"] == -1.0
    assert points(study)[3]["x"] == -1.0
    assert segments(study)[3].parent == 0 and segments(study)[3].age == 0


def test_no_mutation_clones_exactly() -> None:
    study = create(mutation=None, burn_in=0, refine=False)
    study.optimize(silent, n_trials=20)
    for segment in segments(study):
        if segment.parent is not None:
            assert points(study)[segment.trial] == points(study)[segment.parent]


def test_a_pruned_member_is_replaced_at_once() -> None:
    study = create(population_size=3, burn_in=9)
    run(study, 0.5)
    run(study, None, TrialState.PRUNED)
    run(study, 0.6)
    for _ in range(3):
        run(study)
    assert [segment.parent for segment in segments(study)[3:]] == [0, 0, 2]


def test_failures_are_repeated_and_three_lead_to_a_clone() -> None:
    study = create(population_size=2, burn_in=9)
    run(study, 0.5)
    run(study, 0.6)
    run(study)
    for _ in range(4):
        run(study, None, TrialState.FAIL)
    assert places(study)[3:] == [(1, 1)] * 4
    assert [segment.parent for segment in segments(study)[3:]] == [1, 1, 1, 0]
    assert_no_gaps(study)


def test_a_first_segment_that_fails_is_drawn_anew() -> None:
    study = create()
    run(study, None, TrialState.FAIL)
    run(study)
    assert places(study) == [(0, 0), (0, 0)]
    assert points(study)[0] != points(study)[1]


def test_surplus_workers_run_explorers_that_can_be_cloned() -> None:
    study = create(population_size=2, burn_in=0)
    for value in (0.5, 0.6):
        run(study, value)
    asked = [study.ask() for _ in range(4)]
    assert places(study)[2:] == [(0, 1), (1, 1), (None, 1), (None, 1)]
    assert [s.parent for s in segments(study)[4:]] == [0, 0]
    for trial, value in zip(asked, (0.5, 0.6, 0.1, 0.2), strict=True):
        trial.suggest_float("x", -1, 1)
        study.tell(trial, value)
    for _ in range(2):
        run(study)
    assert places(study)[6:] == [(0, 2), (1, 2)]
    assert [s.parent for s in segments(study)[6:]] == [2, 4]  # the worst of four is replaced
    assert "hg:member" not in study.trials[4].user_attrs


def test_asynchronous_members_overtake_and_synchronous_ones_wait() -> None:
    for synchronous, expected in ((False, (1, 2)), (True, (None, 0))):
        study = create(population_size=2, synchronous=synchronous)
        study.ask()
        run(study)
        run(study)
        run(study)
        assert places(study)[3] == expected


def test_the_segment_of_a_vanished_worker_is_run_again_after_two_generations() -> None:
    study = create(population_size=3)
    run(study)
    study.ask()  # never heard of again
    for _ in range(10):
        run(study)
    taken = [n for n, place in enumerate(places(study)) if place == (1, 0)]
    assert taken == [1, 7]
    assert_no_gaps(study)


def test_a_lost_generation_is_replaced_by_clones_of_the_best_before_it() -> None:
    study = create(population_size=3)
    for value in (0.3, 0.2, 0.4):
        run(study, value)
    for _ in range(3):
        run(study, None, TrialState.PRUNED)
    run(study)
    segment = segments(study)[6]
    assert (segment.generation, segment.parent, segment.age) == (2, 1, 0)


def test_many_dead_workers_do_not_add_up_to_more_patience() -> None:
    study = create(population_size=3)
    for _ in range(60):
        study.ask()  # never heard of again
    for _ in range(24):
        run(study)
    assert all(population_of(study).progress(member) >= 4 for member in range(3))
    assert_no_gaps(study)


def test_a_timeout_repeats_a_segment_whose_late_result_still_counts() -> None:
    study = create(population_size=2, synchronous=True, timeout=0.2)
    straggler = study.ask()
    straggler.suggest_float("x", -1, 1)
    run(study, 0.5)
    time.sleep(0.3)
    run(study, 0.6)
    assert places(study) == [(0, 0), (1, 0), (0, 0)]
    study.tell(straggler, 0.1)
    run(study)
    assert segments(study)[3].parent == 0  # the first by number fills the place


def test_members_start_at_the_best_trials_of_other_samplers() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(silent, n_trials=10)
    ranked = sorted(study.trials, key=lambda trial: trial.value)
    study.sampler = PopulationSampler(seed=0, population_size=3, start="best")
    study.optimize(bowl, n_trials=3)
    assert points(study)[10:] == [trial.params for trial in ranked[:3]]


@pytest.mark.filterwarnings("ignore")
def test_members_start_with_values_of_another_sampler() -> None:
    qmc = optuna.samplers.QMCSampler(seed=0)
    study = create(independent_sampler=qmc, population_size=4)
    study.optimize(silent, n_trials=8)
    alone = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=0))
    alone.optimize(silent, n_trials=4)
    assert points(study)[1:4] == points(alone)[1:4]


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_enqueued_and_fixed_values_are_learned_from() -> None:
    study = create(population_size=2, truncation=0.0)
    study.enqueue_trial({"x": 0.9})
    study.optimize(bowl, n_trials=3)
    assert points(study)[2]["x"] == pytest.approx(0.8)
    fixed = optuna.samplers.PartialFixedSampler({"x": 0.25}, study.sampler)
    study.sampler = fixed
    study.optimize(bowl, n_trials=4)
    assert {point["x"] for point in points(study)[3:]} == {0.25}


def test_parameters_may_come_and_go_and_ranges_may_move() -> None:
    def objective(trial: optuna.Trial) -> float:
        late = trial.number >= 8
        trial.suggest_float("x", *((0.5, 0.6) if late else (-1, 1)))
        trial.suggest_int("new" if late else "old", 1, 3)
        return 0.0

    study = create()
    study.optimize(objective, n_trials=16)
    assert all("new" in point for point in points(study)[8:])
    assert all(0.5 <= point["x"] <= 0.6 for point in points(study)[8:])


def test_a_retried_trial_keeps_its_segment() -> None:
    study = create(population_size=2)
    run(study)
    run(study)
    failed = study.ask()
    failed.suggest_float("x", -1, 1)
    study.tell(failed, state=TrialState.FAIL)
    old = study.trials[2]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=old.params,
            distributions=old.distributions,
            user_attrs=old.user_attrs,
            system_attrs={**old.system_attrs, "failed_trial": 2, "fixed_params": old.params},
        )
    )
    run(study)
    assert segments(study)[3] == segments(study)[2]
    assert points(study)[3] == points(study)[2]
    run(study)
    assert places(study)[4] == (1, 1)


def test_a_copied_study_continues() -> None:
    study = create()
    study.optimize(bowl, n_trials=10)
    storage = optuna.storages.InMemoryStorage()
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=storage,
        to_study_name="copy",
    )
    copied = optuna.load_study(study_name="copy", storage=storage, sampler=study.sampler)
    for one in (study, copied):
        one.optimize(bowl, n_trials=10)
    assert points(copied) == points(study)


def test_threads_share_a_sampler_without_collisions() -> None:
    def training(trial: optuna.Trial) -> float:
        time.sleep(0.002)  # else one thread may keep the others from asking
        return bowl(trial)

    study = create(population_size=8)
    study.optimize(training, n_trials=80, n_jobs=4)
    counts = Counter(place for place in places(study) if place[0] is not None)
    assert set(counts.values()) == {1}
    assert_no_gaps(study)


def test_related_methods_differ_in_their_arguments_alone() -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
    from methods import METHODS

    for arguments in METHODS.values():
        study = create(**arguments)
        study.optimize(bowl, n_trials=30)
        assert_no_gaps(study)


def test_the_teacher_learns_nothing_from_values_that_are_not_its_own() -> None:
    def pushes(enqueue: bool) -> float:
        study = create(mutation="teacher", burn_in=0, resample_probability=0.0, population_size=2)

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            report_hypergradient(trial, {"x": 1.0})
            return x + 10 * (trial.number % 2)

        study.optimize(objective, n_trials=3)
        if enqueue:
            study.enqueue_trial({"x": 0.123})
        study.optimize(objective, n_trials=3)
        latest = max(t.number for t in study.trials if "hg:teacher" in t.system_attrs)
        taught = read_teacher(latest, study.trials[latest].system_attrs)
        assert taught is not None
        return float(np.abs(taught.teacher.values).sum())

    assert pushes(enqueue=False) > 0 == pushes(enqueue=True)


def test_a_failed_start_at_the_best_trial_is_followed_by_another() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(silent, n_trials=6)
    ranked = sorted(study.trials, key=lambda trial: trial.value)
    study.sampler = PopulationSampler(seed=0, population_size=2, start="best")
    for _ in range(3):
        run(study, None, TrialState.FAIL)
    expected = [ranked[n].params for n in (0, 2, 4)]
    assert points(study)[6:] == expected


def test_a_lone_synchronous_worker_does_not_wait_long_for_a_dead_one() -> None:
    study = create(population_size=10, synchronous=True)
    study.ask()  # never heard of again
    for _ in range(15):
        run(study)
    assert sum(member is None for member, _ in places(study)) == 0
    assert places(study)[-1] == (5, 1) or places(study)[-1] == (4, 1)


def test_a_range_that_moved_and_came_back_finds_values_where_they_trained() -> None:
    study = create(population_size=1, refine=False)
    highs = (10.0, 5.0, 5.0, 10.0)
    study.enqueue_trial({"x": 8.0})
    for high in highs:
        trial = study.ask()
        trial.suggest_float("x", 0.0, high)
        study.tell(trial, 0.0)
    assert [point["x"] for point in points(study)] == [8.0, 5.0, 5.0, 5.0]


def test_numpy_integers_are_integers(tmp_path: Path) -> None:
    study = create(storage=f"sqlite:///{tmp_path}/study.db", population_size=np.int64(3))
    study.optimize(bowl, n_trials=2)
    assert [segment.population for segment in segments(study)] == [3, 3]


@pytest.mark.parametrize(
    ("options", "n", "expected"),
    [
        ({}, 3, False),
        ({}, 12, True),
        ({"mutation": "teacher"}, 3, True),
        ({"mutation": "resample"}, 3, True),
        ({"mutation": "resample", "refine": False}, 3, False),
        ({"mutation": "hypergradient", "refine": False}, 3, True),
        ({"refine": False}, 12, False),
    ],
    ids=str,
)
def test_hypergradients_are_wanted_where_they_are_used_and_worth_their_price(
    options: dict[str, Any], n: int, expected: bool
) -> None:
    wanted = []

    def objective(trial: optuna.Trial) -> float:
        x = {f"x{i}": trial.suggest_float(f"x{i}", 0, 1) for i in range(n)}
        wanted.append(wants_hypergradient(trial))
        gradient = {name: 2 * value for name, value in x.items()}
        report_hypergradient(trial, gradient if wanted[-1] else {})
        return sum(value * value for value in x.values())

    sampler = PopulationSampler(seed=0, population_size=3, **options)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=9)
    assert wanted[3:] == [expected] * 6
    assert [bool(read_gradient(trial)) for trial in study.trials] == wanted
    assert [wants_hypergradient(trial) for trial in study.trials] == wanted
