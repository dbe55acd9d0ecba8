"""What a student leaves at the end of its segment: refined values and a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_hypergrad.reports.attributes import (
    read_report,
    read_values,
    reading,
    report_values,
    set_user_attr,
    write_decision,
    write_report,
)
from optuna_hypergrad.reports.fields import Fields
from optuna_hypergrad.reports.keys import CHECKPOINT, REFINED, REMOVED, RESTORED

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial


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
    stored = read_report(trial, CHECKPOINT)
    if stored is None:
        return None
    with reading(trial.number, CHECKPOINT):
        size = stored.whole("size", most=2**63 - 1)
        return Checkpoint(stored.text("artifact"), stored.text("sha256"), size)


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
        return Fields({"trial": trial.user_attrs.get(RESTORED)}).perhaps("trial")


def write_removed(storage: BaseStorage, trial_id: int, numbers: Sequence[int]) -> None:
    """Store which trials' checkpoints a running trial has removed."""
    write_decision(storage, trial_id, REMOVED, sorted(numbers))


def read_removed(trial: FrozenTrial) -> tuple[int, ...]:
    """Numbers of the trials whose checkpoints this one has removed.

    Raises:
        StoredDataError: If the attribute was not written by ``write_removed``.
    """
    with reading(trial.number, REMOVED):
        return Fields({REMOVED: trial.system_attrs.get(REMOVED, [])}).wholes(REMOVED)
