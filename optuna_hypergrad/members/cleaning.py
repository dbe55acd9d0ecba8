"""Removal of the checkpoints that nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.artifacts import get_all_artifact_meta

from optuna_hypergrad.checkpoints import FILENAME, remove
from optuna_hypergrad.reports import Checkpoint, read_removed, write_removed
from optuna_hypergrad.samplers.family import Family
from optuna_hypergrad.samplers.retention import removable
from optuna_hypergrad.samplers.studies import maximizes

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.trial import FrozenTrial


def remove_unneeded(trial: Trial, store: ArtifactStore, own: Checkpoint) -> None:
    """Remove the checkpoints of finished trials that no student can need, and older ones of a
    running trial itself.

    Args:
        trial: The running trial; it stores which trials' checkpoints it removed.
        store: The artifact store.
        own: The trial's latest checkpoint.
    """
    study, storage = trial.study, trial.storage
    trials = study._get_trials(deepcopy=False, use_cache=False)
    removed = {number for other in trials for number in read_removed(other)}
    family = Family()
    family.read(trials)
    gone = [student.trial for student in removable(family, removed, maximizes(study))]
    for finished in gone:
        _remove_checkpoints(finished, trial, store)
    _remove_checkpoints(trials[trial.number], trial, store, but=own.artifact)
    if gone:
        before = read_removed(trials[trial.number])
        write_removed(storage, trial._trial_id, [*before, *(other.number for other in gone)])


def _remove_checkpoints(
    owner: FrozenTrial, trial: Trial, store: ArtifactStore, but: str | None = None
) -> None:
    """All checkpoints that a trial ever uploaded, reported or not; other artifacts stay."""
    for meta in get_all_artifact_meta(owner, storage=trial.storage):
        if meta.filename == FILENAME and meta.artifact_id != but:
            remove(store, Checkpoint(meta.artifact_id, "", 0))
