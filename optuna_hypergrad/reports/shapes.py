"""The schedules of a trial: which of its parameters belong to one, and how they make it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optuna_hypergrad.reports.attributes import SCHEDULES, read_report, reading, write_report
from optuna_hypergrad.reports.fields import Fields

FINEST = 10_000  # parameters of one schedule; a count is stored without their names

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class Shape(NamedTuple):
    """What parameters alone do not tell of a schedule."""

    size: int
    """How many parameters it has."""
    form: str
    """Of its windows; see ``Schedule``."""
    is_shared: bool
    """Whether it is cut finer than its parameters are to move: neighbours may move together."""


def report_shape(trial: BaseTrial, schedule: str, shape: Shape) -> None:
    """Record the shape of a schedule.

    Saying so again changes nothing, and so does saying it to a ``FrozenTrial``, which stores
    nothing and only gives its values back.

    Args:
        trial: The trial that has suggested its parameters.
        schedule: Name of the schedule.
        shape: Its shape.
    """
    from optuna.trial import FrozenTrial

    stored = read_report(trial, SCHEDULES)
    known = {} if stored is None else stored.mapping("schedules")
    if isinstance(trial, FrozenTrial) or known.get(schedule) == shape._asdict():
        return
    schedules = {**known, schedule: shape._asdict()}
    write_report(trial, SCHEDULES, {"trial": trial.number, "schedules": schedules})


def read_shapes(trial: BaseTrial) -> dict[str, Shape]:
    """The shapes of the schedules that the trial itself suggested, by name.

    Raises:
        StoredDataError: If the attribute was not written by ``report_shape``.
    """
    stored = read_report(trial, SCHEDULES)
    if stored is None:
        return {}
    with reading(trial.number, SCHEDULES):
        shapes = stored.mapping("schedules")
        return {name: _shape(Fields(shapes[name])) for name in shapes}


def _shape(fields: Fields) -> Shape:
    return Shape(
        size=fields.whole("size", least=1, most=FINEST),
        form=fields.text("form"),
        is_shared=fields.choice("is_shared", (True, False)),
    )
