"""The fine schedules of a trial, whose neighbouring parameters a sampler may move together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_hypergrad.reports.attributes import own_report, reading, set_user_attr
from optuna_hypergrad.reports.fields import Fields
from optuna_hypergrad.reports.keys import SHARED

FINEST = 10_000  # parameters of one schedule; a count is stored without their names

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial


def report_shared(trial: BaseTrial, schedule: str, count: int) -> None:
    """Record that a schedule's ``count`` parameters are cut finer than they are to move.

    Saying so again changes nothing, and so does saying it to a ``FrozenTrial``, which stores
    nothing and only gives its values back.

    Args:
        trial: The trial that has suggested them.
        schedule: Name of the schedule.
        count: How many parameters it has.
    """
    from optuna.trial import FrozenTrial

    stored = own_report(trial.user_attrs, trial.number, SHARED)
    known = {} if stored is None else stored.mapping("schedules")
    if isinstance(trial, FrozenTrial) or known.get(schedule) == count:
        return
    schedules = {**known, schedule: count}
    set_user_attr(trial, SHARED, {"trial": trial.number, "schedules": schedules})


def read_shared(trial: FrozenTrial) -> dict[str, int]:
    """The number of parameters of each fine schedule that the trial itself suggested.

    Raises:
        StoredDataError: If the attribute was not written by ``report_shared``.
    """
    stored = own_report(trial.user_attrs, trial.number, SHARED)
    if stored is None:
        return {}
    with reading(trial.number, SHARED):
        counts = Fields(stored.mapping("schedules"))
        return {name: counts.whole(name, least=1, most=FINEST) for name in counts}
