"""A study whose trials are each run by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import BaseTrial, Trial

from optuna_hypergrad.distributed.ranks import RankError, Ranks, join
from optuna_hypergrad.reports.attributes import write_report

Objective = Callable[[Any], float]

_NEXT = "the start of a trial"


class SharedTrial(BaseTrial):
    """One trial on all ranks, which ``optimize`` passes to the objective like an Optuna ``Trial``.

    Rank 0 suggests values and decides on pruning, with the same result on all ranks to the last
    bit; it also stores reports and attributes.

    Optuna-Integration's ``TorchDistributedTrial`` differs: it rounds floats to single precision, so
    that ranks train with other values than the storage holds, it sends pickles, and it does not
    pass on the seed and the step that a sampler has stored.

    Args:
        ranks: The ranks.
        trial: The study's trial on rank 0; None on the others.
    """

    def __init__(self, ranks: Ranks, trial: Trial | None) -> None:
        self._ranks, self._trial = ranks, trial
        facts = ranks.broadcast("a new trial", lambda: _trial_facts(self._own))
        self._number: int = facts["number"]
        self._system_attrs: dict[str, Any] = facts["system_attrs"]
        self._started: str | None = facts["started"]
        self._user_attrs: dict[str, Any] = facts["user_attrs"]
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._constraints: dict[str, float] = {}

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which stores what the trial reports."""
        return self._ranks.is_first

    @property
    def _own(self) -> Trial:
        assert self._trial is not None  # called on rank 0 only
        return self._trial

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value: float = self._suggest(
            name,
            FloatDistribution(low, high, log=log, step=step),
            lambda: self._own.suggest_float(name, low, high, step=step, log=log),
        )
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        value: int = self._suggest(
            name,
            IntDistribution(low, high, log=log, step=step),
            lambda: self._own.suggest_int(name, low, high, step=step, log=log),
        )
        return value

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> Any:
        return self._suggest(
            name,
            CategoricalDistribution(choices),
            lambda: self._own.suggest_categorical(name, choices),
        )

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def _suggest(self, name: str, distribution: BaseDistribution, ask: Callable[[], Any]) -> Any:
        place = f"the suggestion of {name!r} from {distribution}"
        internal = self._ranks.broadcast(place, lambda: distribution.to_internal_repr(ask()))
        self._distributions[name] = distribution
        self._params[name] = distribution.to_external_repr(internal)
        return self._params[name]

    def report(self, value: float, step: int) -> None:
        if self._trial is not None:
            self._trial.report(value, step)

    def should_prune(self) -> bool:
        return bool(
            self._ranks.broadcast("a pruner's decision", lambda: bool(self._own.should_prune()))
        )

    def set_user_attr(self, key: str, value: Any) -> None:
        if self._trial is not None:
            self._trial.set_user_attr(key, value)
        self._user_attrs[key] = value

    def set_report(self, key: str, value: Mapping[str, Any]) -> None:
        """Store a report that samplers read and people need not see."""
        if self._trial is not None:
            write_report(self._trial, key, value)
        self._system_attrs[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        if self._trial is not None:
            self._trial.set_constraint(key, value)
        self._constraints[key] = value

    def set_system_attr(self, key: str, value: Any) -> None:
        """Not available: system attributes belong to samplers."""
        raise NotImplementedError("Optuna 4 asks for this method; system attributes are samplers'.")

    @property
    def number(self) -> int:
        return self._number

    @property
    def params(self) -> dict[str, Any]:
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return dict(self._distributions)

    @property
    def user_attrs(self) -> dict[str, Any]:
        return dict(self._user_attrs)

    @property
    def system_attrs(self) -> dict[str, Any]:
        """Those of the sampler when the trial began, and the reports since."""
        return dict(self._system_attrs)

    @property
    def constraints(self) -> dict[str, float]:
        return dict(self._constraints)

    @property
    def datetime_start(self) -> datetime | None:
        return None if self._started is None else datetime.fromisoformat(self._started)


def _trial_facts(trial: Trial) -> dict[str, Any]:
    started = trial.datetime_start
    return {
        "number": trial.number,
        "started": None if started is None else started.isoformat(),
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.storage.get_trial_system_attrs(trial._trial_id),
    }


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
