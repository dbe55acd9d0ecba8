"""What optuna-dashboard shows of a study: figures, a note, numbers, and schedules as files.

Needs the extra ``dashboard``. The machine that runs the dashboard does not need this package, since
everything is stored with the study.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from optuna.artifacts import get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_can, checked_count, optional_import
from optuna_hypergrad.dashboard.figures import publish_figures
from optuna_hypergrad.dashboard.note import publish_note, summarize
from optuna_hypergrad.logger import logger
from optuna_hypergrad.samplers.studies import check_one_objective
from optuna_hypergrad.schedules import Schedules

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

__all__ = ["PublishCallback", "publish"]

MIME_TYPES = {".csv": "text/csv", ".json": "application/json"}


def publish(study: Study, artifact_store: ArtifactStore | None = None) -> None:
    """Store figures, a note, numbers and files of a study for optuna-dashboard.

    - The figures of ``optuna_hypergrad.visualization`` that have something to show, under constant
      ids: the next call replaces them.
    - In the study's note, a table of the best or the recommended schedule or, for a population,
      the lineage of the best member. What people write above or below stays.
    - Numbers as user attributes of the study: ``hg:recommended_trial``, ``hg:generations``, ….
    - With an artifact store, this schedule as CSV and JSON: a pair of files for each trial that was
      the best, or recommended, when it was published.

    It may be called repeatedly, by any worker, while trials run, and writes only what has changed.
    optuna-dashboard stores 2045 characters a write: a study takes some 20 to 50 writes, one with
    10,000 trials some hundreds.

    Args:
        study: The study. Without trials of our samplers, only its convergence is published.
        artifact_store: The store whose files the dashboard shows (``--artifact-dir``).

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if ``artifact_store``
            is not an artifact store.
        ImportError: If optuna-dashboard or Plotly is not installed.
        StoredDataError: If the stored data is damaged.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, publish, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.25)})
        ...     return (x - 0.25) ** 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=5)
        >>> publish(study)
        >>> study.user_attrs["hg:losses"]
        5
    """
    check_one_objective(study)
    _check_store(artifact_store)
    _check_installed()
    publish_figures(study)
    summary = summarize(study)
    if summary is None:
        return
    known = study.user_attrs
    for name, value in summary.numbers.items():
        if known.get(name) != value:
            study.set_user_attr(name, value)
    publish_note(study, summary.text)
    if artifact_store is not None and summary.schedules:
        _publish_files(study, artifact_store, summary.file, summary.schedules)


class PublishCallback:
    """Publish a study regularly, as one of ``study.optimize(callbacks=[…])``.

    Of several workers, only the one that runs the trial in question publishes. If publishing fails,
    the search continues, and Optuna's logger warns of the error.

    Args:
        every: Publish when trial number ``every`` − 1, 2 · ``every`` − 1, … has finished.
        artifact_store: As for ``publish``.

    Raises:
        ValueError: If ``every`` is not a positive integer, or ``artifact_store`` is not a store.
        ImportError: If optuna-dashboard is not installed.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, PublishCallback
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> objective = lambda trial: trial.suggest_float("x", 0, 1)
        >>> study.optimize(objective, n_trials=9, callbacks=[PublishCallback(every=3)])
        >>> study.user_attrs["hg:generations"]
        3
    """

    def __init__(self, every: int = 10, artifact_store: ArtifactStore | None = None) -> None:
        self._every = checked_count("every", every)
        _check_store(artifact_store)
        self._store = artifact_store
        _check_installed()

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Publish after every few trials."""
        if (trial.number + 1) % self._every:
            return
        try:
            publish(study, self._store)
        except Exception as error:
            # Errors of database drivers may quote passwords; our own errors do not.
            text = f": {error}" if isinstance(error, ValueError) else ""
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            logger.warning(
                f"trial {trial.number}: the study was not published, {kind}{text}. "
                "The search continues; publish(study) raises the error in full."
            )


def _check_store(store: ArtifactStore | None) -> None:
    if store is not None:
        check_can("artifact_store", store, "an artifact store or None", "open_reader", "write")


def _check_installed() -> None:
    with optional_import("optuna-dashboard", "dashboard"):
        import optuna_dashboard  # noqa: F401


def _publish_files(study: Study, store: ArtifactStore, name: str, schedules: Schedules) -> None:
    """Upload schedules as CSV and JSON, unless the study has files with these names.

    The names contain the number of the trial, whose schedules cannot change any more.
    """
    texts = {".csv": schedules.to_csv(), ".json": schedules.to_json()}
    names = {name + suffix for suffix in texts}
    listed = [meta for meta in get_all_artifact_meta(study) if meta.filename in names]
    known = {meta.filename for meta in listed if _exists(store, meta.artifact_id)}
    with TemporaryDirectory() as folder:
        for suffix, text in texts.items():
            path = Path(folder, name + suffix)
            if path.name not in known:
                path.write_text(text, encoding="utf-8")
                upload_artifact(
                    artifact_store=store,
                    file_path=str(path),
                    study_or_trial=study,
                    mimetype=MIME_TYPES[suffix],
                )


def _exists(store: ArtifactStore, artifact_id: str) -> bool:
    """Whether a listed file was uploaded: Optuna lists a file before its upload, which may fail."""
    try:
        with store.open_reader(artifact_id):
            return True
    except ArtifactNotFound:
        return False
