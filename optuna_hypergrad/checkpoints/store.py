"""Checkpoints in an artifact store: written once, and verified by checksum before they are read."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optuna import Trial
from optuna.artifacts import Backoff, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from optuna_hypergrad.arguments import check_can, check_kind
from optuna_hypergrad.checkpoints.encoding import CheckpointError, UnreachableError, decode, encode
from optuna_hypergrad.reports import Checkpoint

if TYPE_CHECKING:
    import torch
    from optuna.artifacts._protocol import ArtifactStore

FILENAME = "student.safetensors"  # of the artifacts, as the dashboard shows it
STORE = ("open_reader", "write", "remove")  # what an artifact store can do
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = 2**20  # bytes read at once


def upload(trial: Trial, store: ArtifactStore, state: Any, filename: str = FILENAME) -> Checkpoint:
    """Store a state as an artifact of a running trial.

    Args:
        trial: The running trial that the objective was given.
        store: Any artifact store of Optuna's.
        state: What ``encode`` takes.
        filename: The artifact's name in the dashboard, without a folder.

    Returns:
        What ``download`` needs. To store it in an attribute of the trial is up to the caller.

    Raises:
        TypeError: If the state cannot be stored; it names the path of what cannot.
        ValueError: If ``filename`` names a folder.
        optuna.exceptions.UpdateFinishedTrialError: If the trial has finished.

    Example:
        >>> import optuna, tempfile, torch
        >>> study = optuna.create_study()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = optuna.artifacts.FileSystemArtifactStore(folder)
        ...     checkpoint = upload(study.ask(), store, {"weights": torch.ones(2)})
        ...     download(store, checkpoint)
        {'weights': tensor([1., 1.])}
    """
    check_kind("trial", trial, Trial, "a running trial")
    check_can("store", store, "an artifact store", *STORE)
    is_name = isinstance(filename, str) and os.path.basename(filename) == filename
    if not is_name or filename in ("", ".", "..") or "\0" in filename:
        raise ValueError(f"filename: expected a name without a folder, got {filename!r}.")
    data = encode(state)
    with TemporaryDirectory() as folder:
        path = Path(folder, filename)
        path.write_bytes(data)
        artifact = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
    return Checkpoint(artifact, hashlib.sha256(data).hexdigest(), len(data))


def download(
    store: ArtifactStore, checkpoint: Checkpoint, device: torch.device | str | None = None
) -> Any:
    """The state that was uploaded as ``checkpoint``.

    Args:
        store: The artifact store that holds it.
        checkpoint: What ``upload`` returned. It may come from a storage that is not trusted.
        device: Where all tensors go; the CPU unless given.

    Raises:
        UnreachableError: If the store fails; wrapped in ``optuna.artifacts.Backoff`` it is asked
            again. What other errors a store raises go through.
        CheckpointError: If the artifact is missing, is not the very file that was uploaded, or if
            ``checkpoint`` is not what ``upload`` returns.
    """
    _check(store, checkpoint)
    name = f"artifact {checkpoint.artifact}"
    try:
        data = _read(store, checkpoint.artifact, limit=checkpoint.size + 1)
    except (ArtifactNotFound, FileNotFoundError) as error:
        raise CheckpointError(f"{name}: is not in the store.") from error
    except OSError as error:
        raise UnreachableError(f"{name}: cannot be read: {error!r}") from error
    if len(data) != checkpoint.size:
        came = f"more than {checkpoint.size}" if len(data) > checkpoint.size else len(data)
        raise CheckpointError(f"{name}: expected {checkpoint.size} bytes, got {came}.")
    digest = hashlib.sha256(data).hexdigest()
    if digest != checkpoint.sha256:
        raise CheckpointError(f"{name}: expected sha256 {checkpoint.sha256}, got {digest}.")
    try:
        return decode(data, device)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error


def remove(store: ArtifactStore, checkpoint: Checkpoint) -> bool:
    """Remove a checkpoint from the store.

    Returns:
        Whether it was there. Stores that do not tell, such as S3, count as if it was.

    Raises:
        CheckpointError: If ``checkpoint`` is not what ``upload`` returns.
    """
    _check(store, checkpoint)
    while isinstance(store, Backoff):  # it removes again what it has removed: optuna #6843
        store = store._backend
    try:
        store.remove(checkpoint.artifact)
    except ArtifactNotFound:
        return False
    return True


def _check(store: ArtifactStore, checkpoint: Checkpoint) -> None:
    """Refuse ids that a store might take for a path, and sizes that cannot be read."""
    check_can("store", store, "an artifact store", *STORE)
    check_kind("checkpoint", checkpoint, Checkpoint, "what upload returned")
    artifact, _, size = checkpoint
    if not isinstance(artifact, str) or not _UUID.fullmatch(artifact):
        raise CheckpointError(f"artifact {artifact!r:.60}: expected a UUID.")
    if type(size) is not int or size < 0:
        raise CheckpointError(f"artifact {artifact}: expected a size in bytes, got {size!r:.60}.")


def _read(store: ArtifactStore, artifact: str, *, limit: int) -> bytes:
    """At most ``limit`` bytes, in chunks: one read may return less or allocate all of ``limit``."""
    data = bytearray()
    with store.open_reader(artifact) as reader:
        while chunk := reader.read(min(_CHUNK, limit - len(data))):
            data += chunk
    return bytes(data)
