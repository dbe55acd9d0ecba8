"""Schedules as files of a study: optuna-dashboard lists them, and shows CSV as a table."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from optuna.artifacts import get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from optuna_hypergrad.schedules import Schedules

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

TYPES = {".csv": "text/csv", ".json": "application/json"}


def publish_files(study: Study, store: ArtifactStore, name: str, schedules: Schedules) -> None:
    """Upload schedules as CSV and JSON, unless the study has files of these names.

    The names tell the trial, whose schedules cannot change any more. A file counts if it is there:
    Optuna lists one before it is written, and an upload may fail.
    """
    texts = {".csv": schedules.to_csv(), ".json": schedules.to_json()}
    names = {name + suffix for suffix in texts}
    listed = [meta for meta in get_all_artifact_meta(study) if meta.filename in names]
    known = {meta.filename for meta in listed if _is_there(store, meta.artifact_id)}
    with TemporaryDirectory() as folder:
        for suffix, text in texts.items():
            path = Path(folder, name + suffix)
            if path.name not in known:
                path.write_text(text, encoding="utf-8")
                upload_artifact(
                    artifact_store=store,
                    file_path=str(path),
                    study_or_trial=study,
                    mimetype=TYPES[suffix],
                )


def _is_there(store: ArtifactStore, artifact_id: str) -> bool:
    try:
        with store.open_reader(artifact_id):
            return True
    except ArtifactNotFound:
        return False
