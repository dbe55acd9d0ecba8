"""Segments and the teacher of a population, as trials store them.

Readers raise StoredDataError where an attribute was not written by the writer beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial

from optuna_hypergrad.algorithms.mutation import ACTIVATIONS, SLOTS, Teacher
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports import attributes
from optuna_hypergrad.reports.attributes import Fields, StoredDataError
from optuna_hypergrad.reports.objective import read_values, report_values

Refinement = Literal["refined", "step"]
Origin = Literal["teacher", "perturbed", "resampled", "gradient", "surrogate"]
C = TypeVar("C", bound=str)


class Segment(NamedTuple):
    """What PopulationSampler decides about a trial before it runs; mappings are by parameter."""

    trial: int  # the number, which distinguishes the trial's own segment from a copied one
    member: int | None  # None for an explorer
    generation: int  # how many segments the member has run before
    population: int  # the number of members
    seed: int  # of the population: that of the sampler which decided its first segment
    study: str  # where the population began, which owns its checkpoints
    parent: int | None = None  # the trial that it continues or clones; None at the start
    age: int = 0  # how many segments the member has run since it started or was replaced
    values: Mapping[str, float] = {}  # to propose, in internal representation, not rounded
    step_size: Mapping[str, float] = {}  # of the refinement, in fractions of the ranges
    sign: Mapping[str, float] = {}  # last signs of the hypergradients
    queried: Mapping[str, float] = {}  # input of the teacher, in fractions of the ranges
    resampled: tuple[str, ...] = ()  # parameters whose values are not the teacher's
    fixed: tuple[str, ...] = ()  # parameters that are neither mutated nor refined
    # Refined by the parent in training, or by a step along the hypergradient at its end.
    refinement: Mapping[str, Refinement] = {}
    # Of a clone: what mutated each parameter; those that kept their value are left out.
    mutation: Mapping[str, Origin] = {}
    before: Mapping[str, float] = {}  # the mutation, as ``queried``, where the teacher had no part
    wants_hypergradient: bool = True  # whether it is worth its price


def write_segment(storage: BaseStorage, trial_id: int, segment: Segment) -> None:
    """Store a segment with a running trial, and its place as user attributes.

    Only clones show their parent, since each write takes a database some milliseconds.
    """
    plain = {
        "resampled": [*segment.resampled],
        "fixed": [*segment.fixed],
        "wants_hypergradient": int(segment.wants_hypergradient),
    }
    attributes.write_decision(storage, trial_id, attributes.SEGMENT, {**segment._asdict(), **plain})
    cloned = None if segment.age else segment.parent
    shown = {
        attributes.MEMBER: segment.member,
        attributes.GENERATION: segment.generation,
        attributes.PARENT: cloned,
    }
    for key, value in shown.items():
        if value is not None:
            attributes.write_scalar(storage, trial_id, key, value)


def check_descent(child: Segment, parent: Segment) -> None:
    """StoredDataError unless the parent is of an earlier generation, so that lineages end."""
    if parent.generation >= child.generation:
        raise StoredDataError(
            f"trial {child.trial}: {attributes.SEGMENT} is damaged: the parent, trial "
            f"{child.parent}, must be of a generation before {child.generation}, got "
            f"{parent.generation}."
        )


def read_segment(number: int, system_attrs: Mapping[str, Any]) -> Segment | None:
    """The segment among a trial's system attributes, or None.

    A retried trial keeps the segment of the failed one; a trial copied to another study under
    another number does not.
    """

    def parse(stored: Fields) -> Segment:
        population = stored.int_("population", least=1, most=attributes.MOST)
        generation = stored.int_("generation", most=attributes.MOST)
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
            wants_hypergradient="wants_hypergradient" not in stored
            or bool(stored.int_("wants_hypergradient", most=1)),
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

    return attributes.read_decision(system_attrs, number, attributes.SEGMENT, parse)


def _choices(stored: Fields, name: str, choices: tuple[C, ...]) -> dict[str, C]:
    """One of some strings for each of some parameters."""
    values = stored.mapping(name)
    fields = Fields(values)
    return {parameter: fields.choice(parameter, choices) for parameter in values}


class Taught(NamedTuple):
    """A teacher, and the trials that it has learned from."""

    teacher: Teacher
    names: tuple[str, ...]  # of the parameters, in the order of the teacher's rows
    upto: int = 0  # it has learned from the trials below this number …
    pending: tuple[int, ...] = ()  # … except for these, which had not finished


def write_teacher(storage: BaseStorage, trial_id: int, number: int, taught: Taught) -> None:
    """Store a teacher with a running trial."""
    teacher = taught.teacher
    stored: dict[str, Any] = {
        "trial": number,
        "names": [*taught.names],
        "keys": _rounded(teacher.keys),
        "values": _rounded(teacher.values),
        "mean_square": float(f"{teacher.mean_square:.6g}"),
        "steps": teacher.steps,
        "activation": teacher.activation,
        "upto": taught.upto,
        "pending": [*taught.pending],
    }
    attributes.write_decision(storage, trial_id, attributes.TEACHER, stored)


def read_teacher(number: int, system_attrs: Mapping[str, Any]) -> Taught | None:
    """The teacher among a trial's system attributes, or None."""

    def parse(stored: Fields) -> Taught:
        names = stored.texts("names")
        keys = _weights(stored, "keys", len(names))
        teacher = Teacher(
            keys,
            _weights(stored, "values", *keys.shape),
            stored.number("mean_square", least=0.0),
            stored.int_("steps"),
            stored.choice("activation", ACTIVATIONS),
        )
        upto = stored.int_("upto", most=number)
        return Taught(teacher, names, upto, stored.trials("pending"))

    return attributes.read_decision(system_attrs, number, attributes.TEACHER, parse)


def _weights(stored: Fields, name: str, rows: int, slots: int | None = None) -> Array:
    """Weights by parameter and slot; as many slots as the first row has, by default."""
    table = stored.items(name)
    if len(table) != rows:
        raise ValueError(f"{name} must have {rows} rows, as names has, got {len(table)}")
    if slots is None:
        first = table[0] if table else None
        slots = len(first) if isinstance(first, list) and first else SLOTS
    for row in table:
        if not isinstance(row, list) or len(row) != slots:
            raise ValueError(f"{name} must have rows of {slots} numbers, got {row!r:.60}")
    weights = [[attributes.finite(name, weight) for weight in row] for row in table]
    return np.array(weights, dtype=float).reshape(rows, slots)


def _rounded(weights: Array) -> list[list[float]]:
    """With six significant digits, which are enough, and half the bytes of exact floats."""
    return [[float(f"{weight:.6g}") for weight in row] for row in weights.tolist()]


class Checkpoint(NamedTuple):
    """A file in the artifact store, and what verifies it."""

    artifact: str  # its id in the artifact store
    sha256: str  # its checksum, in hexadecimal digits
    size: int  # in bytes


def report_refined(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Report the hyperparameters that a segment refined while it trained; see ``MemberHandle``."""
    report_values(trial, attributes.REFINED, "values", values, "refined values")


def read_refined(trial: FrozenTrial) -> dict[str, float]:
    """The refined values that the trial reported; empty if it reported none."""
    return read_values(trial, attributes.REFINED) or {}


def report_checkpoint(trial: BaseTrial, checkpoint: Checkpoint) -> None:
    """Report a checkpoint that is already in the artifact store; the last one counts."""
    stored = {"trial": trial.number, **checkpoint._asdict()}
    attributes.write_report(trial, attributes.CHECKPOINT, stored)


def read_checkpoint(trial: FrozenTrial) -> Checkpoint | None:
    """The last checkpoint that the trial reported, or None."""

    def parse(stored: Fields) -> Checkpoint:
        size = stored.int_("size", most=2**63 - 1)
        return Checkpoint(stored.text("artifact"), stored.text("sha256"), size)

    return attributes.read_report(trial, attributes.CHECKPOINT, parse)


def report_restored(trial: BaseTrial, number: int, parent: int) -> None:
    """Report the trial whose checkpoint was restored, where it is not the parent's.

    A retried trial overwrites the report of the failed one.
    """
    if number != parent or attributes.RESTORED in trial.user_attrs:
        attributes.set_user_attr(trial, attributes.RESTORED, number)


def read_restored(trial: FrozenTrial) -> int | None:
    """Number of the trial whose checkpoint was restored; None if that is the parent."""
    with attributes.reading(trial.number, attributes.RESTORED):
        return Fields({"trial": trial.user_attrs.get(attributes.RESTORED)}).optional_int("trial")


def write_removed(storage: BaseStorage, trial_id: int, numbers: Sequence[int]) -> None:
    """Store which trials' checkpoints a running trial has removed."""
    attributes.write_decision(storage, trial_id, attributes.REMOVED, sorted(numbers))


def read_removed(trial: FrozenTrial) -> tuple[int, ...]:
    """Numbers of the trials whose checkpoints this one has removed."""
    with attributes.reading(trial.number, attributes.REMOVED):
        removed = trial.system_attrs.get(attributes.REMOVED, [])
        return Fields({"trials": removed}).ints("trials")
