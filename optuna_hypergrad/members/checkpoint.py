"""The checkpoints of a population: restoring one, and removing those that are not needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial

from optuna_hypergrad import checkpoints
from optuna_hypergrad.checkpoints import CheckpointError, UnreachableError
from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.segments import (
    Checkpoint,
    Segment,
    check_descent,
    read_checkpoint,
    read_removed,
    read_segment,
    write_removed,
)
from optuna_hypergrad.samplers.base import Memory
from optuna_hypergrad.samplers.population.population import removable
from optuna_hypergrad.samplers.population.sampler import PopulationSampler, new_population
from optuna_hypergrad.samplers.studies import sampler_of

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.artifacts._protocol import ArtifactStore


def preceding(trials: Sequence[FrozenTrial], segment: Segment) -> Iterator[FrozenTrial]:
    """Parent, grandparent, and so on, among all trials of the study."""
    while segment.parent is not None:
        if segment.parent >= len(trials):
            message = f"trial {segment.trial} names trial {segment.parent} as its parent, but there"
            raise StoredDataError(f"{message} are {len(trials)}.")
        earlier = trials[segment.parent]
        yield earlier
        own = read_segment(earlier.number, earlier.system_attrs)
        if own is None:
            return
        check_descent(segment, own)
        segment = own


def restore(trial: Trial, segment: Segment, store: ArtifactStore) -> tuple[int, dict[str, Any]]:
    """The parent's checkpoint; if that is damaged or missing, the nearest older one of the lineage.

    Returns:
        Number of the trial that saved it, and the state.

    Raises:
        UnreachableError: If the store fails; the trial is to be repeated, as an outage must not
            cost a trained segment.
        CheckpointError: If none of the lineage can be read; it says why for each.
    """
    failures: list[str] = []
    for earlier in preceding(trial.study.get_trials(deepcopy=False), segment):
        try:
            state = _read(earlier, store)
        except UnreachableError:
            raise
        except (CheckpointError, StoredDataError) as error:
            failures.append(f"trial {earlier.number}: {error}".rstrip("."))
            continue
        if failures:
            restored = f"trial {trial.number} restores the checkpoint of trial {earlier.number}"
            reasons = "; ".join(failures)
            warnings.warn(f"{restored}, an older one, because of {reasons}.", stacklevel=3)
        return earlier.number, state
    reasons = "; ".join(failures)
    raise CheckpointError(f"trial {trial.number} finds no checkpoint to restore: {reasons}.")


def _read(earlier: FrozenTrial, store: ArtifactStore) -> dict[str, Any]:
    checkpoint = read_checkpoint(earlier)
    if checkpoint is None:
        raise CheckpointError("it saved none; call member.save before the objective returns")
    state = checkpoints.download(store, checkpoint)
    if not isinstance(state, dict) or not {"parts", "rng"} <= state.keys():
        raise CheckpointError(f"expected the checkpoint of a segment, got {state!r:.60}")
    return state


def remove_unneeded(trial: Trial, store: ArtifactStore, own: Checkpoint) -> None:
    """Remove the checkpoints that a population no longer needs, and the trial's own older ones.

    Args:
        trial: The running trial; it stores which trials' checkpoints it removed.
        store: The artifact store.
        own: The trial's latest checkpoint.
    """
    study = trial.study
    sampler = sampler_of(study, PopulationSampler)
    memory = Memory(new_population) if sampler is None else sampler.memory
    with memory.reading(study) as population:
        unneeded = removable(population)
    # A copied study shares the checkpoints of the original, which alone may remove them.
    owned = [one.trial for one in unneeded if one.segment.study == study.study_name]
    removed = [other.number for other in owned if _remove_all(other, trial, store)]
    frozen = trial.storage.get_trial(trial._trial_id)
    _remove_all(frozen, trial, store, but=own.artifact)
    if removed:
        numbers = [*read_removed(frozen), *removed]
        write_removed(trial.storage, trial._trial_id, numbers)


def _remove_all(
    owner: FrozenTrial, trial: Trial, store: ArtifactStore, but: str | None = None
) -> bool:
    """Remove all checkpoints that a trial uploaded, reported or not; other artifacts stay.

    Returns:
        Whether that succeeded. A store that refuses must not cost the segment that is finished
        here; the next one tries again.
    """
    try:
        for meta in get_all_artifact_meta(owner, storage=trial.storage):
            if meta.filename == checkpoints.FILENAME and meta.artifact_id != but:
                checkpoints.remove(store, Checkpoint(meta.artifact_id, "", 0))
    except Exception as error:  # stores raise errors of any kind
        message = f"trial {trial.number} cannot remove the checkpoints of trial {owner.number}"
        warnings.warn(f"{message}: {error!r}", stacklevel=4)
        return False
    return True
