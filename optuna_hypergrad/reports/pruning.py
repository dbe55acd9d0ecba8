"""What pruners go by besides intermediate values, and what they decide about a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_hypergrad.reports.attributes import (
    SUPERFLUOUS,
    TANGENTS,
    marked,
    own_report,
    read_report,
    reading,
    write_decision,
    write_report,
)

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial


def report_tangent_norms(trial: BaseTrial, norms: dict[int, float]) -> None:
    """Report norms of the tangents ∂w/∂λ, by training step; the last report counts."""
    by_step = marked({str(step): norm for step, norm in norms.items()})
    write_report(trial, TANGENTS, {"trial": trial.number, "norms": by_step})


def read_tangent_norms(trial: FrozenTrial) -> dict[int, float]:
    """The norms that the trial itself reported, by step in order; empty if it did not.

    Raises:
        StoredDataError: If the attribute was not written by ``report_tangent_norms``.
    """
    stored = read_report(trial, TANGENTS)
    if stored is None:
        return {}
    with reading(trial.number, TANGENTS):
        norms = {int(step): norm for step, norm in stored.marked("norms").items()}
    return dict(sorted(norms.items()))


def write_superfluous(storage: BaseStorage, trial_id: int, number: int) -> None:
    """Store that whatever a running replicate reports can change nothing any more."""
    write_decision(storage, trial_id, SUPERFLUOUS, {"trial": number})


def read_superfluous(trial: FrozenTrial) -> bool:
    """Whether the trial was found superfluous; that a retried trial only inherited does not count.

    Raises:
        StoredDataError: If the attribute was not written by ``write_superfluous``.
    """
    return own_report(trial.system_attrs, trial.number, SUPERFLUOUS) is not None
