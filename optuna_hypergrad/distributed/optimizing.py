"""A study whose trials are each run by all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optuna import Study, Trial

from optuna_hypergrad.distributed.ranks import RankError, Ranks, join
from optuna_hypergrad.distributed.trials import SharedTrial

Objective = Callable[[Any], float]

_NEXT = "the start of a trial"


def optimize(
    study: Study | None, objective: Objective, n_trials: int | None = None, **options: Any
) -> None:
    """``study.optimize`` where every trial is run by all ranks together.

    Rank 0 has the study; the others run the same objective with the values that it suggests. The
    value of the objective on rank 0 counts, and an error on any rank fails the trial. The study
    then ends, unless ``catch`` includes it: ``catch=(RankError,)`` for errors of other ranks.

    With one rank this is ``study.optimize(objective, n_trials, **options)``.

    Args:
        study: The study on rank 0, None on all others.
        objective: The objective, on all ranks.
        n_trials: Number of trials; as in ``study.optimize``.
        options: Other arguments of ``study.optimize``.

    Raises:
        RankError: If a rank is gone, or an error on another rank ends the study.
        ValueError: If ``study`` is given or missing on the wrong rank, or ``n_jobs`` is not 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad.distributed import join, optimize
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study() if join().is_first else None
        >>> optimize(study, lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        >>> len(study.trials)
        3
    """
    ranks = join()
    if (study is not None) != ranks.is_first:
        expected = "a study" if ranks.is_first else "None"
        raise ValueError(f"study must be {expected} on rank {ranks.rank}, got {study!r}.")
    if options.get("n_jobs", 1) != 1:
        raise ValueError(f"n_jobs must be 1 for ranks, got {options['n_jobs']}.")
    if study is None:
        _follow(ranks, objective)
    elif ranks.size == 1:
        study.optimize(objective, n_trials, **options)
    else:
        _lead(ranks, study, objective, n_trials, options)


def _lead(
    ranks: Ranks, study: Study, objective: Objective, n_trials: int | None, options: dict[str, Any]
) -> None:
    def shared(trial: Trial) -> float:
        try:
            with ranks.together():
                ranks.broadcast(_NEXT, lambda: True)
            return _run(ranks, objective, trial)
        finally:
            if ranks.is_lost:  # no further trial can run, whatever is caught
                study.stop()

    try:
        study.optimize(shared, n_trials, **options)
    except Exception as error:
        ranks.begin()
        ranks.fail(error)
        raise
    with ranks.together():
        ranks.broadcast(_NEXT, lambda: False)


def _follow(ranks: Ranks, objective: Objective) -> None:
    raised: Exception | None = None
    while _is_another(ranks, raised):
        raised = None
        try:
            _run(ranks, objective, None)
        except Exception as error:  # rank 0 receives it, and its study ends or continues
            raised = error


def _run(ranks: Ranks, objective: Objective, trial: Trial | None) -> float:
    """Run one trial, which ends on all ranks together."""
    with ranks.together():
        value = objective(SharedTrial(ranks, trial))
        ranks.gather("the end of a trial")
        return value


def _is_another(ranks: Ranks, raised: Exception | None) -> bool:
    """Whether another trial follows; if not, ``raised`` here may be the cause."""
    try:
        with ranks.together():
            return bool(ranks.broadcast(_NEXT, lambda: None))
    except RankError as error:
        raise error from raised
