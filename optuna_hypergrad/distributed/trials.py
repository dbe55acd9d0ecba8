"""A trial that ranks share."""

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
from optuna.trial import BaseTrial, Trial

from optuna_hypergrad.distributed.ranks import Ranks
from optuna_hypergrad.reports.attributes import write_report


class SharedTrial(BaseTrial):
    """One trial on all ranks: rank 0 asks the study and tells the others.

    It serves the same objective as an Optuna ``Trial``, which every rank runs. Values are suggested
    and pruning is decided by rank 0, and the same on all ranks to the last bit; reports and
    attributes are stored by rank 0. ``optimize`` makes it.

    Optuna-Integration's ``TorchDistributedTrial`` does the same for another purpose: it rounds
    floats to single precision, so that a rank trains with another value than is stored, it sends
    pickles, and it knows nothing of the seed and the step that a sampler has decided.

    Args:
        ranks: The ranks.
        trial: The study's trial on rank 0, None on the others.
    """

    def __init__(self, ranks: Ranks, trial: Trial | None) -> None:
        self._ranks, self._trial = ranks, trial
        facts = ranks.told("a new trial", lambda: _facts(self._own))
        self._number: int = facts["number"]
        self.decided: dict[str, Any] = facts["decided"]
        """System attributes: what the sampler has decided, and what the objective reported."""
        self._started: str | None = facts["started"]
        self._user_attrs: dict[str, Any] = facts["user_attrs"]
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._constraints: dict[str, float] = {}

    @property
    def _own(self) -> Trial:
        assert self._trial is not None  # only rank 0 asks
        return self._trial

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value: float = self._suggested(
            name,
            FloatDistribution(low, high, log=log, step=step),
            lambda: self._own.suggest_float(name, low, high, step=step, log=log),
        )
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        value: int = self._suggested(
            name,
            IntDistribution(low, high, log=log, step=step),
            lambda: self._own.suggest_int(name, low, high, step=step, log=log),
        )
        return value

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> Any:
        return self._suggested(
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

    def _suggested(self, name: str, among: BaseDistribution, ask: Callable[[], Any]) -> Any:
        place = f"the suggestion of {name!r} from {among}"
        internal = self._ranks.told(place, lambda: among.to_internal_repr(ask()))
        self._distributions[name] = among
        self._params[name] = among.to_external_repr(internal)
        return self._params[name]

    def report(self, value: float, step: int) -> None:
        if self._trial is not None:
            self._trial.report(value, step)

    def should_prune(self) -> bool:
        return bool(self._ranks.told("a pruner's decision", lambda: bool(self._own.should_prune())))

    def set_user_attr(self, key: str, value: Any) -> None:
        if self._trial is not None:
            self._trial.set_user_attr(key, value)
        self._user_attrs[key] = value

    def set_report(self, key: str, value: Mapping[str, Any]) -> None:
        """Store what samplers read and people need not see."""
        if self._trial is not None:
            write_report(self._trial, key, value)
        self.decided[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        if self._trial is not None:
            self._trial.set_constraint(key, value)
        self._constraints[key] = value

    def set_system_attr(self, key: str, value: Any) -> None:
        """Not for objectives: system attributes are the samplers'."""
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
        """What the sampler had decided before the trial began, and what was reported since."""
        return dict(self.decided)

    @property
    def constraints(self) -> dict[str, float]:
        return dict(self._constraints)

    @property
    def datetime_start(self) -> datetime | None:
        return None if self._started is None else datetime.fromisoformat(self._started)


def _facts(trial: Trial) -> dict[str, Any]:
    started = trial.datetime_start
    return {
        "number": trial.number,
        "started": None if started is None else started.isoformat(),
        "user_attrs": trial.user_attrs,
        "decided": trial.storage.get_trial_system_attrs(trial._trial_id),
    }
