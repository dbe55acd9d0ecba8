"""Artifact stores for tests: in memory, out of order at will, and with a list of what was asked."""

import io
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound


class MemoryStore:
    """An artifact store in memory, which notes the ids it is asked for.

    While ``error`` is set, every call raises it.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.asked: list[str] = []
        self.error: Exception | None = None

    def open_reader(self, artifact_id: str) -> BinaryIO:
        self._ask(artifact_id)
        if artifact_id not in self.files:
            raise ArtifactNotFound(artifact_id)
        return io.BytesIO(self.files[artifact_id])

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._ask(artifact_id)
        self.files[artifact_id] = content_body.read()

    def remove(self, artifact_id: str) -> None:
        self._ask(artifact_id)
        if self.files.pop(artifact_id, None) is None:
            raise ArtifactNotFound(artifact_id)

    def _ask(self, artifact_id: str) -> None:
        self.asked.append(artifact_id)
        if self.error is not None:
            raise self.error
