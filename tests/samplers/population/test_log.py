"""The line that each trial of a population begins with."""

import re
from typing import Any

import optuna
import pytest

from optuna_hypergrad import PopulationSampler, report_hypergradient
from optuna_hypergrad.reports import report_refined
from optuna_hypergrad.samplers import MutationRecord
from optuna_hypergrad.samplers.population.log import describe_mutation
from samplers.studies import ask, create


def test_starts_steps_and_clones_are_logged(lines: list[str]) -> None:
    arguments: dict[str, Any] = {"population_size": 2, "burn_in": 0, "truncation": 0.5}
    study = create(PopulationSampler(seed=0, mutation="teacher", **arguments))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 1, 2)
        trial.suggest_categorical("kind", ["a", "b"])
        report_hypergradient(trial, {"x": 1.0})
        return x

    study.optimize(objective, n_trials=6)
    members = [trial.user_attrs["hg:member"] for trial in study.trials]
    assert lines[0] == "Trial 0: generation 0, member 0 starts."
    x = [trial.params["x"] for trial in study.trials]
    worse = 2 + members[2:4].index(int(x[1] > x[0]))
    better = 5 - worse
    stepped = f"x {x[better - 2]:.3g} → {x[better]:.3g} (sign +)"
    assert (
        lines[better] == f"Trial {better}: generation 1, member {better - 2} continues: {stepped}."
    )
    origin = f"member {worse - 2} ← clone of {better - 2} (trial {better - 2})"
    change = f"x {x[better - 2]:.3g} → {x[worse]:.3g}"
    weight = "(one step)"  # the teacher knows nothing yet: a weight of 1 is left out
    assert lines[worse] == f"Trial {worse}: generation 1, {origin}, {change} {weight}."
    # Of the fraction of the range, which begins at 1, after one more step along the hypergradient.
    (weight,) = re.findall(r"one step, weight (.+)\)\.$", lines[5])
    assert float(weight) == pytest.approx((x[5] - 1) / (x[4] - 1), abs=5e-4) and float(weight) < 1


def test_refined_values_are_logged(lines: list[str]) -> None:
    study = create(PopulationSampler(seed=0, population_size=1))
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    report_refined(trial, {"x": 0.25})
    study.tell(trial, 1.0)
    study.ask()
    before = f"{trial.params['x']:.3g}"
    assert lines[1] == f"Trial 1: generation 1, member 0 continues: x {before} → 0.25 (refined)."


@pytest.mark.parametrize(
    "mutation, consequence",
    [
        ("teacher", "of z, which is mutated without one;"),
        ("surrogate", "of z, which is mutated without one;"),
        ("resample", "of z, which is only resampled;"),
        ("hypergradient", "of z, which is cloned unchanged;"),
        (None, "of z, which is cloned unchanged;"),
    ],
)
def test_refined_and_fixed_parameters_are_not_unreported(
    lines: list[str], mutation: Any, consequence: str
) -> None:
    sampler = PopulationSampler(seed=0, population_size=2, fixed=["q"], mutation=mutation)
    study = create(sampler)
    trial = ask(study, ["x", "y", "z", "q"])
    report_hypergradient(trial, {"x": 1.0})
    report_refined(trial, {"y": 0.5})
    study.tell(trial, 1.0)
    assert consequence in lines[-1]


def test_a_second_step_in_place_of_mutation_is_logged_as_such(lines: list[str]) -> None:
    options: dict[str, Any] = {"mutation": "hypergradient", "burn_in": 0, "truncation": 0.5}
    study = create(PopulationSampler(seed=0, population_size=2, **options))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 9)
        report_hypergradient(trial, {"x": -1.0})
        return x

    study.optimize(objective, n_trials=4)
    (line,) = (line for line in lines if "←" in line)
    (number, parent) = map(int, re.findall(r"[Tt]rial (\d+)", line))
    before, after = (study.trials[n].params["x"] for n in (parent, number))
    assert line.endswith(f"x {before:.3g} → {after:.3g} (two steps).")
    (continued,) = (n for n in (2, 3) if n != number)
    one_step = study.trials[continued].params["x"] - before
    assert after - before > 1.5 * one_step > 0


@pytest.mark.parametrize("factor", [1.0, 1 + 2**-52, 1 - 2**-53])
def test_a_weight_of_one_is_left_out(factor: float) -> None:
    mutation = MutationRecord("teacher", before=0.5, after=0.5 * factor, has_step=True)
    assert describe_mutation(0.1, 0.2, mutation) == "0.1 → 0.2 (one step)"
    assert describe_mutation(0.1, 0.2, mutation._replace(has_step=False)) == "0.1 → 0.2"
