"""What a trial stores, and how it is read back: the one home of the attribute keys.

An objective reports its hypergradient in a user attribute; a sampler writes what it decided about
a trial to that trial's system attributes. Everything is strict JSON: floats, ints, strings and
dicts of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial

_GRADIENT = "hg:gradient"  # user attribute: {"trial": number, "values": {name: float or mark}}
_GRADIENT_NORM = "hg:grad_norm"  # user attribute, a scalar for the dashboard
_CLAIM = "hg:claim"  # system attribute: the fields of a Claim
_DRAWN = "hg:drawn"  # system attribute: {name: internal value} that replicates are to repeat

_CHAIN, _STEP, _AGREEMENT = "hg:chain", "hg:step", "hg:agreement"  # scalars of it for all to see
_RETRIED = "failed_trial"  # Optuna's own: the system attribute that marks a retried trial

# JSON has no NaN: such entries are marked, never dropped.
_MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class StoredDataError(ValueError):
    """What a storage holds is not what this package wrote there."""


class Claim(NamedTuple):
    """What GradientSampler decides about a trial before it runs."""

    trial: int
    """The trial's number, which tells a copied claim from its own."""
    chain: int
    """The search that the trial belongs to."""
    step: int
    """The outer step of that search."""
    seed: int
    """Seed of the sampler that claimed."""
    used: tuple[int, ...] = ()
    """Numbers of the trials that decided the step before; frozen with the first such claim."""
    agreement: Mapping[str, float] = {}
    """|Mean sign| of the hypergradients in ``used``, by parameter; 1 where all agree."""
    start: int | None = None
    """At step 0: number of the trial that the search starts from, if it starts from one."""


def report_hypergradient(trial: BaseTrial, gradient: Mapping[str, Any]) -> None:
    """Report the hypergradient of the trial's validation loss to the sampler.

    Call it once, before the objective returns. Entries that are NaN or infinite are stored as
    such and make the trial count as diverged.

    Args:
        trial: The running trial that the objective was given.
        gradient: Derivative of a loss to be *minimised*, whatever the study's direction, by the
            names of trial parameters, in loss per unit of the parameter. Floats, numpy scalars
            and tensors of one element; parameters may be left out.

    Raises:
        ValueError: If ``gradient`` is empty, names what the trial has not suggested or cannot
            differentiate, or holds what is not one number; if the trial has reported before, or
            is a ``FrozenTrial`` (to run an objective again, use a ``FixedTrial``).
        optuna.exceptions.UpdateFinishedTrialError: If the trial has finished.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.3)})
        ...     return (x - 0.3) ** 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=20)
        >>> round(study.best_params["x"], 2)
        0.3
    """
    values = _checked_gradient(trial, gradient)
    if _reported_by(trial.user_attrs, trial.number) is not None:
        raise ValueError(f"trial {trial.number} has already reported a hypergradient.")
    norm = float(np.linalg.norm(list(values.values())))
    _set_user_attr(trial, _GRADIENT, {"trial": trial.number, "values": _marked(values)})
    if math.isfinite(norm):
        _set_user_attr(trial, _GRADIENT_NORM, norm)


def read_gradient(trial: FrozenTrial) -> dict[str, float] | None:
    """The hypergradient that the trial itself reported, or None.

    A report that a retried or copied trial only inherited does not count.

    Raises:
        StoredDataError: If the attribute was not written by ``report_hypergradient``.
    """
    values = _reported_by(trial.user_attrs, trial.number)
    if values is None:
        return None
    try:
        return {str(name): _MARKS[v] if isinstance(v, str) else float(v) for name, v in values}
    except (KeyError, TypeError, ValueError) as error:
        raise StoredDataError(f"trial {trial.number}: {_GRADIENT} is damaged: {error!r}") from error


def write_claim(storage: BaseStorage, trial_id: int, claim: Claim) -> None:
    """Store a sampler's decision with a running trial, and what of it is to be seen."""
    storage.set_trial_system_attr(trial_id, _CLAIM, {**claim._asdict(), "used": [*claim.used]})
    for key, value in ((_CHAIN, claim.chain), (_STEP, claim.step)):
        storage.set_trial_user_attr(trial_id, key, value)
    if len(claim.used) > 1:
        mean = sum(claim.agreement.values()) / max(len(claim.agreement), 1)
        storage.set_trial_user_attr(trial_id, _AGREEMENT, mean)


def read_claim(number: int, system_attrs: Mapping[str, Any]) -> Claim | None:
    """The claim among a trial's system attributes, or None.

    A retried trial keeps the claim that it inherited; one copied to another study under another
    number does not.

    Args:
        number: The trial's number, for the error.
        system_attrs: Its system attributes, freshly read.

    Raises:
        StoredDataError: If the attribute was not written by ``write_claim``.
    """
    stored = system_attrs.get(_CLAIM)
    if stored is None:
        return None
    try:
        start = stored["start"]
        if stored["trial"] != number and _RETRIED not in system_attrs:
            return None
        return Claim(
            trial=int(stored["trial"]),
            chain=int(stored["chain"]),
            step=int(stored["step"]),
            seed=int(stored["seed"]),
            used=tuple(int(n) for n in stored["used"]),
            agreement={str(k): float(v) for k, v in stored["agreement"].items()},
            start=None if start is None else int(start),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoredDataError(f"trial {number}: {_CLAIM} is damaged: {error!r}") from error


def write_drawn(storage: BaseStorage, trial_id: int, drawn: Mapping[str, float]) -> None:
    """Store what the independent sampler drew for a trial, before the objective suggests it."""
    storage.set_trial_system_attr(trial_id, _DRAWN, dict(drawn))


def read_drawn(trial: FrozenTrial) -> dict[str, float]:
    """What was drawn for a trial, as internal values of its parameters; empty if nothing was.

    Raises:
        StoredDataError: If the attribute was not written by ``write_drawn``.
    """
    try:
        drawn = trial.system_attrs.get(_DRAWN, {})
        return {str(name): float(value) for name, value in drawn.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise StoredDataError(f"trial {trial.number}: {_DRAWN} is damaged: {error!r}") from error


def trial_seed(trial: BaseTrial) -> int:
    """A seed of the trial's own, for its initial weights and the order of its data.

    It derives from the sampler's seed and the trial's number, so that replicates of one outer
    step differ and a rerun of the study repeats them. With other samplers it derives from the
    number alone.

    Returns:
        An integer in [0, 2³²).
    """
    from optuna.trial import FrozenTrial, Trial

    attrs: Mapping[str, Any] = {}
    if isinstance(trial, FrozenTrial):
        attrs = trial.system_attrs
    elif isinstance(trial, Trial):  # its cached attributes are older than the claim
        attrs = trial.storage.get_trial_system_attrs(trial._trial_id)
    claim = read_claim(trial.number, attrs)
    entropy = [0 if claim is None else claim.seed, trial.number]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _checked_gradient(trial: BaseTrial, gradient: Mapping[str, Any]) -> dict[str, float]:
    """``gradient`` as floats, or a ValueError that names what is wrong with it."""
    from optuna.distributions import CategoricalDistribution

    if not isinstance(gradient, Mapping):
        raise ValueError(f"gradient must map parameter names to floats, got {gradient!r}.")
    if not gradient:
        raise ValueError("gradient is empty; expected at least one parameter.")
    for name in gradient:
        if name not in trial.params:
            known = ", ".join(trial.params) or "none so far"
            raise ValueError(f"gradient: {name!r} is not a parameter of this trial ({known}).")
        if isinstance(trial.distributions[name], CategoricalDistribution):
            raise ValueError(f"gradient: {name!r} is categorical and has no derivative.")
    return {name: _as_float(name, value) for name, value in gradient.items()}


def _as_float(name: str, value: Any) -> float:
    shape = tuple(getattr(value, "shape", ()))  # of numpy and torch objects, on any device
    if math.prod(shape) != 1:
        raise ValueError(f"gradient: {name!r} must be one number, got shape {shape}.")
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ValueError(f"gradient: {name!r} must be a number, got {value!r}.")
    return float(number)


def _marked(values: Mapping[str, float]) -> dict[str, float | str]:
    return {name: v if math.isfinite(v) else str(v) for name, v in values.items()}


def _reported_by(user_attrs: Mapping[str, Any], number: int) -> Any:
    stored = user_attrs.get(_GRADIENT)
    if stored is None:
        return None
    try:
        return stored["values"].items() if stored["trial"] == number else None
    except (AttributeError, KeyError, TypeError) as error:
        raise StoredDataError(f"trial {number}: {_GRADIENT} is damaged: {error!r}") from error


def _set_user_attr(trial: BaseTrial, key: str, value: Any) -> None:
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import FrozenTrial

    message = f"trial {trial.number} has finished; report before the objective returns."
    if isinstance(trial, FrozenTrial):
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(message)
        raise ValueError(f"trial {trial.number} is a FrozenTrial, which stores nothing.")
    try:
        trial.set_user_attr(key, value)
    except UpdateFinishedTrialError as error:
        raise UpdateFinishedTrialError(message) from error
