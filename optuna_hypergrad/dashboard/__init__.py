"""What optuna-dashboard shows of a study: figures, a note, numbers, and schedules to download.

Needs the extra ``dashboard``; whoever runs the dashboard itself needs none of this package, since
all is stored with the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_can, checked_count, optional_import
from optuna_hypergrad.dashboard.figures import publish_figures, publish_files
from optuna_hypergrad.dashboard.note import findings, publish_note
from optuna_hypergrad.logger import get_logger
from optuna_hypergrad.samplers.studies import check_one_objective

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

__all__ = ["PublishCallback", "publish"]


def publish(study: Study, artifact_store: ArtifactStore | None = None) -> None:
    """Put figures, a note, numbers and files of a study where optuna-dashboard shows them.

    - Those figures of ``optuna_hypergrad.visualization`` that have something to show, under ids
      that stay the same: the next call replaces them.
    - In the study's note, a table of the best schedule; of a population, the lineage of the best
      student. What people write before or after it stays.
    - Numbers as user attributes of the study: ``hg:outer_steps``, ``hg:generations``, ….
    - With an artifact store, the best schedule as CSV and JSON, a pair of files for each trial
      that was the best when it was published.

    It may be called again, by any worker, while trials run, and changes nothing that is up to date.
    optuna-dashboard stores 2045 characters a write: a study is some 20 to 50 writes, one of 10,000
    trials some hundreds.

    Args:
        study: The study. One in which no sampler of this package ran gets its convergence only.
        artifact_store: The store whose files the dashboard shows (``--artifact-dir``).

    Raises:
        ValueError: If ``study`` is not one, or has several objectives; if ``artifact_store`` is
            not one.
        ImportError: If optuna-dashboard or Plotly is not installed.
        StoredDataError: If the storage holds something else than what was written there.

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
        >>> study.user_attrs["hg:outer_steps"]
        5
    """
    check_one_objective(study)
    _check_store(artifact_store)
    with optional_import("optuna-dashboard", "dashboard"):
        import optuna_dashboard  # noqa: F401
    publish_figures(study)
    found = findings(study)
    if found is not None:
        _publish_numbers(study, found.numbers)
        publish_note(study, found.text)
        if artifact_store is not None and found.schedules:
            publish_files(study, artifact_store, found.file, found.schedules)


class PublishCallback:
    """Publishes a study after every few trials, for ``study.optimize(callbacks=[…])``.

    Of several workers, only the one whose trial has such a number publishes. Where publishing
    fails, the search goes on, and Optuna's logger warns of what happened.

    Args:
        every: Publish when trial number ``every`` − 1, 2 · ``every`` − 1, … has finished.
        artifact_store: As for ``publish``.

    Raises:
        ValueError: If an argument is not usable.
        ImportError: If optuna-dashboard is not installed; now rather than after the first trials.

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
        with optional_import("optuna-dashboard", "dashboard"):
            import optuna_dashboard  # noqa: F401

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Publish if it is this trial's turn."""
        if (trial.number + 1) % self._every:
            return
        try:
            publish(study, self._store)
        except Exception as error:
            # Drivers may quote in an error what they connected to; our own errors do not.
            text = f": {error}" if isinstance(error, ValueError) else ""
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            get_logger().warning(
                f"trial {trial.number}: the study was not published, {kind}{text}. "
                "The search goes on; publish(study) tells more."
            )


def _publish_numbers(study: Study, numbers: Mapping[str, int]) -> None:
    known = study.user_attrs
    for name, value in numbers.items():
        if known.get(name) != value:
            study.set_user_attr(name, value)


def _check_store(store: ArtifactStore | None) -> None:
    if store is not None:
        check_can("artifact_store", store, "an artifact store or None", "open_reader", "write")
