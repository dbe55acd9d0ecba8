"""What GradientSampler and ConsensusPruner decide about a trial that descends along signs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import checked_count, checked_number
from optuna_hypergrad.reports.attributes import (
    AGREEMENT,
    CHAIN,
    CLAIM,
    DRAWN,
    MOST,
    STEP,
    SUPERFLUOUS,
    WINDOWS,
    Fields,
    read_decision,
    reading,
    write_decision,
    write_scalar,
)


@dataclass(frozen=True)
class Rule:
    """The arguments of GradientSampler that determine the path of a search; see there.

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
        for argument, given in (("start", self.start), ("step_size", self.step_size)):
            if not isinstance(given, Mapping):
                raise ValueError(f"{argument} must map names to floats, got {given!r}.")
            for name, value in given.items():
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(
                        f"{argument}: {name!r} must be a finite number, got {value!r}."
                    )
        for name, size in self.step_size.items():
            if size <= 0:
                raise ValueError(f"step_size: {name!r} must be positive, got {size}.")
        checked_count("n_replicates", self.n_replicates, most=MOST)
        checked_number("tolerance", self.tolerance, "lie in [0, 1)", lambda x: 0 <= x < 1)


_DEFAULT = Rule()


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
    """Numbers of the trials that decided the previous step; the first such claim settles them."""
    agreement: Mapping[str, float] = {}
    """|Mean sign| of the hypergradients in ``used``, by parameter; 1 where all agree."""
    start: int | None = None
    """At step 0: number of the trial that the search starts from, if it starts from one."""
    windows: Mapping[str, tuple[int, ...]] = {}
    """By schedule with ``windows="auto"``: how many parameters each shared window holds."""
    rule: Rule = _DEFAULT
    """The arguments of the sampler that claimed."""


def write_claim(
    storage: BaseStorage, trial_id: int, claim: Claim, *, one_of_many: bool = False
) -> Mapping[str, Any]:
    """Store a sampler's decision with a running trial, and what people should see of it.

    The chain is written only if it is ``one_of_many``: each write costs milliseconds in a database.

    Returns:
        The stored attribute.
    """
    windows = {name: [*widths] for name, widths in claim.windows.items()}
    rule = _stored_rule(claim.rule)
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
    return stored


def _stored_rule(rule: Rule) -> dict[str, Any]:
    """The values of a rule that are not the default.

    Not ``start``, which the first trial shows.
    """
    values: dict[str, Any] = {
        "safeguard": None if rule.safeguard is None else float(rule.safeguard),
        "step_size": {name: float(size) for name, size in rule.step_size.items()},
        "n_replicates": int(rule.n_replicates),
        "tolerance": float(rule.tolerance),
    }
    return {name: value for name, value in values.items() if value != getattr(_DEFAULT, name)}


def stored_claim(trial: FrozenTrial) -> Any:
    """The attribute of a claim as it is stored, of this trial or of another; None without one."""
    return trial.system_attrs.get(CLAIM)


def read_claim(number: int, system_attrs: Mapping[str, Any]) -> Claim | None:
    """The claim among a trial's system attributes, or None.

    A retried trial keeps the claim of the failed one; a trial that was copied to another study
    under another number does not.

    Args:
        number: The trial's number.
        system_attrs: Its system attributes, freshly read.

    Raises:
        StoredDataError: If the attribute was not written by ``write_claim``.
    """

    def parse(stored: Fields) -> Claim:
        used, start = stored.trials("used"), stored.optional_int("start")
        # Claims of older versions have neither windows nor a rule.
        windows = Fields(stored.get("windows", {}))
        if number in (*used, start):
            raise ValueError("used and start must be other trials")
        return Claim(
            trial=stored.int_("trial"),
            chain=stored.int_("chain"),
            step=stored.int_("step"),
            seed=stored.int_("seed"),
            used=used,
            agreement=stored.numbers("agreement", 0.0, 1.0),
            start=start,
            windows={name: windows.ints(name, least=1) for name in windows},
            rule=_rule(Fields(stored.get("rule", {}))),
        )

    return read_decision(system_attrs, number, CLAIM, parse)


def _rule(stored: Fields) -> Rule:
    read = {"step_size": stored.numbers, "n_replicates": stored.int_, "tolerance": stored.number}
    values: dict[str, Any] = {name: read[name](name) for name in read if name in stored}
    if "safeguard" in stored:
        is_none = stored["safeguard"] is None
        values["safeguard"] = None if is_none else stored.number("safeguard")
    return Rule(**values) if values else _DEFAULT


def write_drawn(storage: BaseStorage, trial_id: int, drawn: Mapping[str, float]) -> None:
    """Store what the independent sampler drew for a trial, before the objective suggests it."""
    write_decision(storage, trial_id, DRAWN, dict(drawn))


def read_drawn(trial: FrozenTrial) -> dict[str, float]:
    """What the independent sampler drew for a trial, as internal values by parameter.

    Raises:
        StoredDataError: If the attribute was not written by ``write_drawn``.
    """
    if DRAWN not in trial.system_attrs:
        return {}
    with reading(trial.number, DRAWN):
        return Fields(trial.system_attrs).numbers(DRAWN)


def write_superfluous(storage: BaseStorage, trial_id: int, number: int) -> None:
    """Store that a running replicate can no longer change its outer step."""
    write_decision(storage, trial_id, SUPERFLUOUS, {"trial": number})


def read_superfluous(trial: FrozenTrial) -> bool:
    """Whether the trial itself was found superfluous, not only the one that it retries.

    Raises:
        StoredDataError: If the attribute was not written by ``write_superfluous``.
    """
    stored = trial.system_attrs.get(SUPERFLUOUS)
    if stored is None:
        return False
    with reading(trial.number, SUPERFLUOUS):
        return Fields(stored).int_("trial") == trial.number
