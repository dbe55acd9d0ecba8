"""What PopulationSampler decides about a trial.

What a student leaves at the end of its segment: refined values and a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial

from optuna_hypergrad.reports.attributes import (
    CHECKPOINT,
    GENERATION,
    MEMBER,
    MOST,
    PARENT,
    REFINED,
    REMOVED,
    RESTORED,
    SEGMENT,
    Fields,
    StoredDataError,
    read_decision,
    read_report,
    reading,
    set_user_attr,
    write_decision,
    write_report,
    write_scalar,
)
from optuna_hypergrad.reports.objective import read_values, report_values


class Segment(NamedTuple):
    """What PopulationSampler decides about a trial before it runs."""

    trial: int
    """The trial's number, which tells a copied segment from its own."""
    member: int | None
    """The place in the population that the trial fills; None for an explorer beyond it."""
    generation: int
    """How many segments that member has run before."""
    population: int
    """How many places it has."""
    seed: int
    """Seed of the population: that of the sampler which decided its first segment."""
    study: str
    """Name of the study, which tells a copied family from the one that owns its checkpoints."""
    parent: int | None = None
    """Number of the trial whose checkpoint and values are inherited; None at a birth."""
    age: int = 0
    """How many segments the student has run since its birth or its replacement by a clone."""
    values: Mapping[str, float] = {}
    """What to propose, by parameter, in Optuna's internal representation; not rounded."""
    step_size: Mapping[str, float] = {}
    """Step sizes of the refinement, in fractions of the ranges."""
    sign: Mapping[str, float] = {}
    """Last signs of the hypergradients."""
    queried: Mapping[str, float] = {}
    """What the teacher was asked about, in fractions of the ranges; empty if it was not asked."""
    resampled: tuple[str, ...] = ()
    """Parameters whose mutated values are not the teacher's."""
    fixed: tuple[str, ...] = ()
    """Parameters that the user wants neither mutated nor refined."""


def write_segment(storage: BaseStorage, trial_id: int, segment: Segment) -> None:
    """Store a sampler's decision with a running trial, and what of it is to be seen: the parent
    only of clones, since each write takes a database some milliseconds."""
    lists = {"resampled": [*segment.resampled], "fixed": [*segment.fixed]}
    stored = {**segment._asdict(), **lists}
    write_decision(storage, trial_id, SEGMENT, stored)
    cloned = None if segment.age else segment.parent
    seen = {MEMBER: segment.member, GENERATION: segment.generation, PARENT: cloned}
    for key, value in seen.items():
        if value is not None:
            write_scalar(storage, trial_id, key, value)


def check_descent(child: Segment, parent: Segment) -> None:
    """StoredDataError unless a parent is of an earlier generation than its child.

    So lineages end, whatever a storage says of them.
    """
    if parent.generation >= child.generation:
        raise StoredDataError(
            f"trial {child.trial}: {SEGMENT} is damaged: the parent, trial {child.parent}, must be "
            f"of a generation before {child.generation}, got {parent.generation}."
        )


def read_segment(number: int, system_attrs: Mapping[str, Any]) -> Segment | None:
    """The segment among a trial's system attributes, or None.

    A retried trial keeps the segment that it inherited; one copied to another study under another
    number does not.

    Args:
        number: The trial's number, for the error.
        system_attrs: Its system attributes, freshly read.

    Raises:
        StoredDataError: If the attribute was not written by ``write_segment``.
    """

    def parse(stored: Fields) -> Segment:
        population = stored.int_("population", least=1, most=MOST)
        generation = stored.int_("generation", most=MOST)
        parent = stored.optional_int("parent")
        queried = stored.numbers("queried", 0.0, 1.0)
        if parent == number or (queried and parent is None):
            raise ValueError(f"parent must be another trial, got {parent}")
        return Segment(
            trial=stored.int_("trial"),
            member=stored.optional_int("member", most=population - 1),
            generation=generation,
            population=population,
            seed=stored.int_("seed"),
            study=stored.text("study"),
            parent=parent,
            age=stored.int_("age", most=generation),
            values=stored.numbers("values"),
            step_size=stored.numbers("step_size", 0.0, 1.0),
            sign=stored.numbers("sign", -1.0, 1.0),
            queried=queried,
            resampled=stored.texts("resampled"),
            fixed=stored.texts("fixed") if "fixed" in stored else (),  # older ones have none
        )

    return read_decision(system_attrs, number, SEGMENT, parse)


class Checkpoint(NamedTuple):
    """Where a checkpoint lies, and how to know it again."""

    artifact: str
    """Its id in the artifact store."""
    sha256: str
    """Its checksum, in hexadecimal digits."""
    size: int
    """In bytes."""


def report_refined(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Report the hyperparameters that a student refined while it trained.

    Its next segment starts from them. Values outside of a parameter's range are moved to the
    nearest bound. Those that are NaN or infinite, of a student that diverged, are stored as such
    and start nothing.

    Args:
        trial: The running trial that the objective was given.
        values: By the names of numeric trial parameters, in their own units; parameters may be
            left out.

    Raises:
        ValueError: If ``values`` is empty, names what the trial has not suggested or what is
            categorical, or holds what is not one number; if the trial has reported before.
        optuna.exceptions.UpdateFinishedTrialError: If the trial has finished.
    """
    report_values(trial, REFINED, "values", values, "refined values")


def read_refined(trial: FrozenTrial) -> dict[str, float]:
    """The values that the trial itself refined; empty if it did not.

    Raises:
        StoredDataError: If the attribute was not written by ``report_refined``.
    """
    return read_values(trial, REFINED) or {}


def report_checkpoint(trial: BaseTrial, checkpoint: Checkpoint) -> None:
    """Report a checkpoint that is already in the artifact store; the last one counts."""
    write_report(trial, CHECKPOINT, {"trial": trial.number, **checkpoint._asdict()})


def read_checkpoint(trial: FrozenTrial) -> Checkpoint | None:
    """The checkpoint that the trial itself left, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``report_checkpoint``.
    """

    def parse(stored: Fields) -> Checkpoint:
        size = stored.int_("size", most=2**63 - 1)
        return Checkpoint(stored.text("artifact"), stored.text("sha256"), size)

    return read_report(trial, CHECKPOINT, parse)


def report_restored(trial: BaseTrial, number: int) -> None:
    """Report whose checkpoint was restored; needed where it was not the parent's."""
    set_user_attr(trial, RESTORED, number)


def has_restored(trial: BaseTrial) -> bool:
    """Whether there is a report of what was restored, if only one that was inherited."""
    return RESTORED in trial.user_attrs


def read_restored(trial: FrozenTrial) -> int | None:
    """Number of the trial whose checkpoint was restored; None if it was the parent's.

    Raises:
        StoredDataError: If the attribute was not written by ``report_restored``.
    """
    with reading(trial.number, RESTORED):
        return Fields({"trial": trial.user_attrs.get(RESTORED)}).optional_int("trial")


def write_removed(storage: BaseStorage, trial_id: int, numbers: Sequence[int]) -> None:
    """Store which trials' checkpoints a running trial has removed."""
    write_decision(storage, trial_id, REMOVED, sorted(numbers))


def read_removed(trial: FrozenTrial) -> tuple[int, ...]:
    """Numbers of the trials whose checkpoints this one has removed.

    Raises:
        StoredDataError: If the attribute was not written by ``write_removed``.
    """
    with reading(trial.number, REMOVED):
        return Fields({REMOVED: trial.system_attrs.get(REMOVED, [])}).ints(REMOVED)
