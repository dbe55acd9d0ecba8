"""How a search starts and moves, as the user of GradientSampler chose it.

What GradientSampler decides about a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_hypergrad.arguments import checked_count, checked_number
from optuna_hypergrad.reports.attributes import (
    AGREEMENT,
    CHAIN,
    CLAIM,
    DRAWN,
    STEP,
    WINDOWS,
    own_decision,
    reading,
    write_decision,
    write_scalar,
)
from optuna_hypergrad.reports.fields import MOST, Fields

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Rule:
    """The arguments of GradientSampler that bear on the path of a search; it documents them.

    Raises:
        ValueError: If one is out of range; the message names it.
    """

    safeguard: float | None = 0.05
    start: Mapping[str, float] = field(default_factory=dict)
    step_size: Mapping[str, float] = field(default_factory=dict)
    n_replicates: int = 1
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.safeguard is not None:
            expected = "be at least 0, or None"
            checked_number("safeguard", self.safeguard, expected, lambda x: 0 <= x < math.inf)
        _check_floats("start", self.start)
        _check_floats("step_size", self.step_size)
        for name, size in self.step_size.items():
            if size <= 0:
                raise ValueError(f"step_size: {name!r} must be positive, got {size}.")
        checked_count("n_replicates", self.n_replicates, most=MOST)
        checked_number("tolerance", self.tolerance, "lie in [0, 1)", lambda x: 0 <= x < 1)


def stored_rule(rule: Rule) -> dict[str, Any]:
    """What of a rule is not the default, so that the path can be told without the sampler.

    Not where it starts, which the first trial tells.
    """
    stored = {
        "safeguard": None if rule.safeguard is None else float(rule.safeguard),
        "step_size": {name: float(size) for name, size in rule.step_size.items()},
        "n_replicates": int(rule.n_replicates),
        "tolerance": float(rule.tolerance),
    }
    return {name: value for name, value in stored.items() if value != getattr(Rule(), name)}


def read_rule(fields: Fields) -> Rule:
    """What ``stored_rule`` made; ValueError for anything else."""
    kinds: dict[str, Callable[[str], Any]] = {
        "safeguard": lambda name: None if fields[name] is None else fields.number(name),
        "step_size": fields.numbers,
        "n_replicates": fields.whole,
        "tolerance": fields.number,
    }
    return Rule(**{name: read(name) for name, read in kinds.items() if name in fields})


def _check_floats(argument: str, given: Mapping[str, float]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument} must map names to floats, got {given!r}.")
    for name, value in given.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{argument}: {name!r} must be a finite number, got {value!r}.")


class Claim(NamedTuple):
    """What GradientSampler decides about a trial before it runs."""

    trial: int
    """The trial's number, which tells a copied claim from its own."""
    chain: int
    """The search that the trial belongs to."""
    step: int
    """The outer step of that search."""
    seed: int
    """Seed of the sampler that claimed."""
    used: tuple[int, ...] = ()
    """Numbers of the trials that decided the step before; frozen with the first such claim."""
    agreement: Mapping[str, float] = {}
    """|Mean sign| of the hypergradients in ``used``, by parameter; 1 where all agree."""
    start: int | None = None
    """At step 0: number of the trial that the search starts from, if it starts from one."""
    windows: Mapping[str, tuple[int, ...]] = {}
    """How many parameters of each fine schedule moved together in the step to this point."""
    rule: Rule = Rule()
    """How the sampler that claimed starts and moves searches."""


def write_claim(
    storage: BaseStorage, trial_id: int, claim: Claim, *, one_of_many: bool = False
) -> None:
    """Store a sampler's decision with a running trial, and what of it is to be seen: the chain
    only where it is one of many, since each write takes a database some milliseconds."""
    windows = {name: [*widths] for name, widths in claim.windows.items()}
    rule = stored_rule(claim.rule)
    stored = {**claim._asdict(), "used": [*claim.used], "windows": windows, "rule": rule}
    write_decision(storage, trial_id, CLAIM, stored)
    write_scalar(storage, trial_id, STEP, claim.step)
    if one_of_many:
        write_scalar(storage, trial_id, CHAIN, claim.chain)
    if len(claim.used) > 1:
        mean = sum(claim.agreement.values()) / max(len(claim.agreement), 1)
        write_scalar(storage, trial_id, AGREEMENT, mean)
    if claim.windows:
        seen = (f"{name} {'+'.join(map(str, widths))}" for name, widths in claim.windows.items())
        write_scalar(storage, trial_id, WINDOWS, ", ".join(seen))


def read_claim(number: int, system_attrs: Mapping[str, Any]) -> Claim | None:
    """The claim among a trial's system attributes, or None.

    A retried trial keeps the claim that it inherited; one copied to another study under another
    number does not.

    Args:
        number: The trial's number, for the error.
        system_attrs: Its system attributes, freshly read.

    Raises:
        StoredDataError: If the attribute was not written by ``write_claim``.
    """
    stored = own_decision(system_attrs, number, CLAIM)
    if stored is None:
        return None
    with reading(number, CLAIM):
        used, start = stored.trials("used"), stored.perhaps("start")
        if number in (*used, start):
            raise ValueError("used and start must be other trials")
        return Claim(
            trial=stored.whole("trial"),
            chain=stored.whole("chain", most=MOST),
            step=stored.whole("step", most=MOST),
            seed=stored.whole("seed", most=math.inf),
            used=used,
            agreement=stored.numbers("agreement", 0.0, 1.0),
            start=start,
            # Claims of older versions have neither.
            windows=_windows(stored) if "windows" in stored else {},
            rule=read_rule(Fields(stored.mapping("rule"))) if "rule" in stored else Rule(),
        )


def _windows(stored: Fields) -> dict[str, tuple[int, ...]]:
    """Widths are positive and few."""
    windows = Fields(stored.mapping("windows"))
    return {name: windows.wholes(name, least=1, most=MOST) for name in windows}


def write_drawn(storage: BaseStorage, trial_id: int, drawn: Mapping[str, float]) -> None:
    """Store what the independent sampler drew for a trial, before the objective suggests it."""
    write_decision(storage, trial_id, DRAWN, dict(drawn))


def read_drawn(trial: FrozenTrial) -> dict[str, float]:
    """What was drawn for a trial, as internal values of its parameters; empty if nothing was.

    Raises:
        StoredDataError: If the attribute was not written by ``write_drawn``.
    """
    with reading(trial.number, DRAWN):
        return Fields({DRAWN: trial.system_attrs.get(DRAWN, {})}).numbers(DRAWN)
