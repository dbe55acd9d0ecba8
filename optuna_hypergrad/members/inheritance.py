"""The checkpoint that a student inherits, or that of an older ancestor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from optuna_hypergrad.checkpoints import CheckpointError, UnreachableError, download
from optuna_hypergrad.reports import (
    Segment,
    StoredDataError,
    check_descent,
    read_checkpoint,
    read_segment,
)

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.artifacts._protocol import ArtifactStore


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
