"""Removal of the checkpoints that nobody needs any more."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from optuna.artifacts import get_all_artifact_meta

from optuna_hypergrad.checkpoints import FILENAME, remove
from optuna_hypergrad.reports import Checkpoint, read_removed, write_removed
from optuna_hypergrad.samplers.family import Family
from optuna_hypergrad.samplers.memory import Memory
from optuna_hypergrad.samplers.population import PopulationSampler, new_family
from optuna_hypergrad.samplers.retention import removable
from optuna_hypergrad.samplers.studies import maximizes, sampler_of

if TYPE_CHECKING:
    from optuna import Study, Trial
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
    study = trial.study
    with _memory(study).reading(study) as family:
        unneeded = removable(family, maximizes(study))
    # A copied family shares its checkpoints with the study that it was copied from.
    own_study = [s.trial for s in unneeded if s.segment.study == study.study_name]
    gone = [other.number for other in own_study if _remove_checkpoints(other, trial, store)]
    frozen = trial.storage.get_trial(trial._trial_id)
    _remove_checkpoints(frozen, trial, store, but=own.artifact)
    if gone:
        write_removed(trial.storage, trial._trial_id, [*read_removed(frozen), *gone])


def _memory(study: Study) -> Memory[Family]:
    """The sampler's, which has read most trials already."""
    sampler = sampler_of(study, PopulationSampler)
    return Memory(new_family) if sampler is None else sampler.memory


def _remove_checkpoints(
    owner: FrozenTrial, trial: Trial, store: ArtifactStore, but: str | None = None
) -> bool:
    """All checkpoints that a trial ever uploaded, reported or not; other artifacts stay.

    Returns:
        Whether that succeeded. A store that refuses must not cost the segment that is finished
        here; the next one tries again.
    """
    try:
        for meta in get_all_artifact_meta(owner, storage=trial.storage):
            if meta.filename == FILENAME and meta.artifact_id != but:
                remove(store, Checkpoint(meta.artifact_id, "", 0))
    except Exception as error:  # of whatever store
        message = f"trial {trial.number} cannot remove the checkpoints of trial {owner.number}"
        warnings.warn(f"{message}: {error!r}", stacklevel=4)
        return False
    return True
