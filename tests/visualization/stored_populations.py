"""Stored trials of populations, made without a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_hypergrad.reports.segments import Segment

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 1.0),
    "layers": IntDistribution(1, 8),
    "kind": CategoricalDistribution(["sgd", "adam"]),
}


def segment(number: int, member: int | None, generation: int, **more: Any) -> Segment:
    """A segment of a population of four members.

    ``queried`` and ``resampled`` say how it was mutated, unless ``mutation`` does.
    """
    origins = {
        **dict.fromkeys(more.get("queried", {}), "teacher"),
        **dict.fromkeys(more.get("resampled", ()), "resampled"),
    }
    fields = {"population": 4, "seed": 0, "study": "s", "mutation": origins, **more}
    return Segment(number, member, generation, **fields)


def trial(
    stored: Segment, value: float | None, params: Mapping[str, Any], *, refined: Any = None
) -> FrozenTrial:
    """A finished trial that was this segment; failed without a value."""
    plain = {"resampled": [*stored.resampled], "wants_hypergradient": 1}
    attrs: dict[str, Any] = {"hg:segment": {**stored._asdict(), **plain}}
    if refined is not None:
        attrs["hg:refined"] = {"trial": stored.trial, "values": refined}
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params=dict(params),
        distributions={name: SPACE[name] for name in params},
        system_attrs=attrs,
    )


def study_of(trials: list[FrozenTrial], direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(study_name="s", direction=direction)
    study.add_trials(trials)
    return study


def large(members: int, generations: int, names: tuple[str, ...] = tuple(SPACE)) -> optuna.Study:
    """A population in which a fifth are replaced by clones of others in each generation."""
    trials: list[FrozenTrial] = []
    ages = [0] * members
    for number in range(members * generations):
        generation, member = divmod(number, members)
        u = (number * 0.6180339887) % 1.0
        params = {"lr": 10 ** (-4 * u), "dropout": u, "layers": 1 + number % 8, "kind": "sgd"}
        is_clone = generation > 0 and (member + generation) % 5 == 0
        more: dict[str, Any] = {"population": members}
        if generation:
            ages[member] = 0 if is_clone else ages[member] + 1
            by = (member * 7 + 3) % members if is_clone else member
            more |= {"parent": number - member - members + by, "age": ages[member]}
        if is_clone:
            values = {"lr": params["lr"], "dropout": u, "layers": params["layers"], "kind": 0.0}
            more |= {"values": values, "queried": {"dropout": 0.9 * u}, "resampled": ("layers",)}
            more |= {"before": {"layers": u}}
        kept = {name: params[name] for name in names}
        trials.append(trial(segment(number, member, generation, **more), 1.0 / (number + 1), kept))
    return study_of(trials)
