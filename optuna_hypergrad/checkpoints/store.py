"""Checkpoints in an artifact store, verified by checksum before they are decoded."""

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
from optuna_hypergrad.reports.segments import Checkpoint

if TYPE_CHECKING:
    import torch
    from optuna.artifacts._protocol import ArtifactStore

FILENAME = "student.safetensors"  # of the artifacts, shown in the dashboard
STORE = ("open_reader", "write", "remove")  # methods of an artifact store
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = 2**20  # bytes read at once


def upload(trial: Trial, store: ArtifactStore, state: Any, filename: str = FILENAME) -> Checkpoint:
    """Store a state as an artifact of a running trial.

    Args:
        trial: The running trial, as passed to the objective.
        store: An artifact store of Optuna.
        state: The state; see ``encode``.
        filename: Name of the artifact in the dashboard, without a folder.

    Returns:
        The argument of ``download``. The caller must store it, in an attribute of the trial.

    Raises:
        TypeError: If the state cannot be stored; the message names the path of the value.
        ValueError: If ``filename`` contains a folder.
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
    """Return the state that was uploaded as ``checkpoint``.

    Args:
        store: The artifact store.
        checkpoint: The result of ``upload``, possibly from an untrusted storage.
        device: Device of all tensors; by default the CPU.

    Raises:
        UnreachableError: If the store fails with an OSError; ``optuna.artifacts.Backoff`` retries.
            Other errors of the store are not caught.
        CheckpointError: If the artifact is missing or differs from the uploaded file, or
            ``checkpoint`` does not come from ``upload``.
    """
    _check(store, checkpoint)
    name = f"artifact {checkpoint.artifact}"
    try:
        data = _read(store, checkpoint.artifact, limit=checkpoint.size + 1)
    except (ArtifactNotFound, FileNotFoundError) as error:
        raise CheckpointError(f"{name}: not in the store.") from error
    except OSError as error:
        raise UnreachableError(f"{name}: cannot be read: {error!r}") from error
    if len(data) != checkpoint.size:
        found = f"more than {checkpoint.size}" if len(data) > checkpoint.size else len(data)
        raise CheckpointError(f"{name}: expected {checkpoint.size} bytes, got {found}.")
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
        Whether it existed; True for stores that do not report this, such as S3.

    Raises:
        CheckpointError: If ``checkpoint`` does not come from ``upload``.
    """
    _check(store, checkpoint)
    while isinstance(store, Backoff):  # retries a removal that succeeded: optuna #6843
        store = store._backend
    try:
        store.remove(checkpoint.artifact)
    except ArtifactNotFound:
        return False
    return True


def _check(store: ArtifactStore, checkpoint: Checkpoint) -> None:
    """Reject ids that a store could take for a path, and invalid sizes."""
    check_can("store", store, "an artifact store", *STORE)
    check_kind("checkpoint", checkpoint, Checkpoint, "a Checkpoint from upload")
    artifact, _, size = checkpoint
    if not isinstance(artifact, str) or not _UUID.fullmatch(artifact):
        raise CheckpointError(f"artifact {artifact!r:.60}: expected a UUID.")
    if type(size) is not int or size < 0:
        raise CheckpointError(f"artifact {artifact}: expected a size in bytes, got {size!r:.60}.")


def _read(store: ArtifactStore, artifact: str, *, limit: int) -> bytes:
    """Read at most ``limit`` bytes, in chunks: one read may return less, or allocate them all."""
    data = bytearray()
    with store.open_reader(artifact) as reader:
        while chunk := reader.read(min(_CHUNK, limit - len(data))):
            data += chunk
    return bytes(data)
