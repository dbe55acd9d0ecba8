"""The checkpoint that a student inherits, or that of an older ancestor.

Removal of the checkpoints that nobody needs any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial

from optuna_hypergrad.checkpoints import (
    FILENAME,
    CheckpointError,
    UnreachableError,
    download,
    remove,
)
from optuna_hypergrad.reports import (
    Checkpoint,
    Segment,
    StoredDataError,
    check_descent,
    read_checkpoint,
    read_removed,
    read_segment,
    write_removed,
)
from optuna_hypergrad.samplers.base import Memory
from optuna_hypergrad.samplers.population.assignment import removable
from optuna_hypergrad.samplers.population.population import Population
from optuna_hypergrad.samplers.population.sampler import PopulationSampler, new_family
from optuna_hypergrad.samplers.studies import maximizes, sampler_of

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.trial import FrozenTrial


def parent_of(trial: Trial, segment: Segment) -> FrozenTrial:
    """The trial that a segment inherits from."""
    return next(_ancestors(trial.study.get_trials(deepcopy=False), segment))


def inherited(trial: Trial, segment: Segment, store: ArtifactStore) -> tuple[int, dict[str, Any]]:
    """The parent's checkpoint; if that is damaged or missing, the nearest older ancestor's.

    Returns:
        Number of the trial that left it, and the state.

    Raises:
        UnreachableError: If the store fails.
        CheckpointError: If no ancestor's can be read; it says why for each.
    """
    failures = []
    for ancestor in _ancestors(trial.study.get_trials(deepcopy=False), segment):
        try:
            state = _read(ancestor, store)
        except UnreachableError:  # the trial is repeated: an outage costs no trained segment
            raise
        except (CheckpointError, StoredDataError) as error:
            failures.append(f"trial {ancestor.number}: {error}".rstrip("."))
            continue
        if failures:
            reasons = "; ".join(failures)
            warnings.warn(_FALLBACK.format(trial.number, ancestor.number, reasons), stacklevel=4)
        return ancestor.number, state
    reasons = "; ".join(failures)
    raise CheckpointError(f"trial {trial.number} finds no checkpoint to restore: {reasons}.")


_FALLBACK = "trial {} restores the checkpoint of trial {}, an older ancestor, because of {}."


def _ancestors(trials: Sequence[FrozenTrial], segment: Segment) -> Iterator[FrozenTrial]:
    """Parent, grandparent, and so on."""
    while segment.parent is not None:
        if segment.parent >= len(trials):
            message = f"trial {segment.trial} names trial {segment.parent} as its parent, but there"
            raise StoredDataError(f"{message} are {len(trials)}.")
        ancestor = trials[segment.parent]
        yield ancestor
        own = read_segment(ancestor.number, ancestor.system_attrs)
        if own is None:
            return
        check_descent(segment, own)
        segment = own


def _read(ancestor: FrozenTrial, store: ArtifactStore) -> dict[str, Any]:
    checkpoint = read_checkpoint(ancestor)
    if checkpoint is None:
        raise CheckpointError("it left no checkpoint")
    state = download(store, checkpoint)
    if not isinstance(state, dict) or not {"parts", "rng"} <= state.keys():
        raise CheckpointError(f"expected the checkpoint of a student, got {state!r:.60}")
    return state


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


def _memory(study: Study) -> Memory[Population]:
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
