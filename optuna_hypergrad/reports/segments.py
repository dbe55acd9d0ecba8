"""Segments of a population: what PopulationSampler decides, and what the objective reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

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

Refinement = Literal["refined", "step"]
Origin = Literal["teacher", "perturbed", "resampled", "gradient"]
C = TypeVar("C", bound=str)


class Segment(NamedTuple):
    """What PopulationSampler decides about a trial before it runs."""

    trial: int
    """The trial's number, which distinguishes a copied segment from the trial's own."""
    member: int | None
    """The place in the population that the trial fills; None for an explorer beyond it."""
    generation: int
    """How many segments that member has run before."""
    population: int
    """The size of the population."""
    seed: int
    """Seed of the population: that of the sampler which decided its first segment."""
    study: str
    """Name of the study; only the study that a population was created in owns its checkpoints."""
    parent: int | None = None
    """Number of the trial that this one continues or clones; None at the start of a member."""
    age: int = 0
    """How many segments the member has run since it started or was replaced by a clone."""
    values: Mapping[str, float] = {}
    """What to propose, by parameter, in Optuna's internal representation; not rounded."""
    step_size: Mapping[str, float] = {}
    """Step sizes of the refinement, in fractions of the ranges."""
    sign: Mapping[str, float] = {}
    """Last signs of the hypergradients."""
    queried: Mapping[str, float] = {}
    """The input of the teacher, in fractions of the ranges; empty if it was not queried."""
    resampled: tuple[str, ...] = ()
    """Parameters that were resampled: their values are not the teacher's."""
    fixed: tuple[str, ...] = ()
    """Parameters that the user wants neither mutated nor refined."""
    refinement: Mapping[str, Refinement] = {}
    """How parameters changed during the parent's segment (``"refined"``) or at its end (a
    ``"step"`` along the hypergradient)."""
    mutation: Mapping[str, Origin] = {}
    """How parameters of a clone were mutated; those that kept their value are left out."""
    before: Mapping[str, float] = {}
    """Fractions of the ranges before the mutation, of numeric parameters not in ``queried``."""


def write_segment(storage: BaseStorage, trial_id: int, segment: Segment) -> None:
    """Store a segment with a running trial, and its place as user attributes.

    Only clones show their parent, since each write takes a database some milliseconds.
    """
    lists = {"resampled": [*segment.resampled], "fixed": [*segment.fixed]}
    write_decision(storage, trial_id, SEGMENT, {**segment._asdict(), **lists})
    cloned = None if segment.age else segment.parent
    shown = {MEMBER: segment.member, GENERATION: segment.generation, PARENT: cloned}
    for key, value in shown.items():
        if value is not None:
            write_scalar(storage, trial_id, key, value)


def check_descent(child: Segment, parent: Segment) -> None:
    """StoredDataError unless the parent is of an earlier generation, so that lineages end."""
    if parent.generation >= child.generation:
        raise StoredDataError(
            f"trial {child.trial}: {SEGMENT} is damaged: the parent, trial {child.parent}, must be "
            f"of a generation before {child.generation}, got {parent.generation}."
        )


def read_segment(number: int, system_attrs: Mapping[str, Any]) -> Segment | None:
    """The segment among a trial's system attributes, or None.

    A retried trial keeps the segment of the failed one; a trial copied to another study under
    another number does not.

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
        segment = Segment(
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
            fixed=stored.texts("fixed") if "fixed" in stored else (),
        )
        if "mutation" not in stored:  # an older version stored only these two
            older: dict[str, Origin] = {**dict.fromkeys(queried, "teacher")}
            older |= dict.fromkeys(segment.resampled, "resampled")
            return segment._replace(mutation=older)
        return segment._replace(
            refinement=_choices(stored, "refinement", get_args(Refinement)),
            mutation=_choices(stored, "mutation", get_args(Origin)),
            before=stored.numbers("before", 0.0, 1.0),
        )

    return read_decision(system_attrs, number, SEGMENT, parse)


def _choices(stored: Fields, name: str, choices: tuple[C, ...]) -> dict[str, C]:
    """One of some strings for each of some parameters."""
    values = stored.mapping(name)
    fields = Fields(values)
    return {parameter: fields.choice(parameter, choices) for parameter in values}


class Checkpoint(NamedTuple):
    """A file in the artifact store, and what verifies it."""

    artifact: str
    """Its id in the artifact store."""
    sha256: str
    """Its checksum, in hexadecimal digits."""
    size: int
    """In bytes."""


def report_refined(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Report the hyperparameters that a segment refined while it trained.

    The next segment starts from them. Values outside of a parameter's range are moved to the
    nearest bound. Those that are NaN or infinite are stored as such and not used.

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
    """The refined values that the trial reported; empty if it reported none.

    Raises:
        StoredDataError: If the attribute was not written by ``report_refined``.
    """
    return read_values(trial, REFINED) or {}


def report_checkpoint(trial: BaseTrial, checkpoint: Checkpoint) -> None:
    """Report a checkpoint that is already in the artifact store; the last one counts."""
    write_report(trial, CHECKPOINT, {"trial": trial.number, **checkpoint._asdict()})


def read_checkpoint(trial: FrozenTrial) -> Checkpoint | None:
    """The last checkpoint that the trial reported, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``report_checkpoint``.
    """

    def parse(stored: Fields) -> Checkpoint:
        size = stored.int_("size", most=2**63 - 1)
        return Checkpoint(stored.text("artifact"), stored.text("sha256"), size)

    return read_report(trial, CHECKPOINT, parse)


def report_restored(trial: BaseTrial, number: int) -> None:
    """Report the trial whose checkpoint was restored, where it is not the parent's."""
    set_user_attr(trial, RESTORED, number)


def has_restored(trial: BaseTrial) -> bool:
    """Whether a restored trial is reported, by this trial or by the one that it retries."""
    return RESTORED in trial.user_attrs


def read_restored(trial: FrozenTrial) -> int | None:
    """Number of the trial whose checkpoint was restored; None if that is the parent.

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
