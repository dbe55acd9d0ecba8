"""What GradientSampler decides about a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_hypergrad.reports.attributes import own_decision, reading, write_decision, write_scalar
from optuna_hypergrad.reports.fields import MOST, Fields
from optuna_hypergrad.reports.keys import AGREEMENT, CHAIN, CLAIM, DRAWN, STEP, WINDOWS
from optuna_hypergrad.reports.rule import Rule, read_rule, stored_rule

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


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
