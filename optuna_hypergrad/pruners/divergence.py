"""DivergencePruner: ends trials whose training has blown up."""

from __future__ import annotations

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import checked_count, checked_number
from optuna_hypergrad.reports.objective import read_tangent_norms


class DivergencePruner(BasePruner):
    """Prune a trial whose training has blown up.

    That is a trial whose last reported training loss is not finite or exceeds ``factor`` times
    its own first one, or whose tangents ∂w/∂λ explode. A trial is compared with itself alone, so
    the pruner works with any sampler from the first trial on. For ``GradientSampler`` a pruned
    trial has diverged: the search returns to the best point and halves its steps.

    Losses are reported with ``watch``, or with ``trial.report``: training losses, to be minimised
    whatever the study's direction, not accuracies. Tangents are known for runs in forward mode
    that are passed to ``watch``.

    Args:
        factor: Bound on a loss in units of the first reported loss l₀: l₀ + (factor − 1)·|l₀|,
            also for losses below zero. Runs that start from a trained network, such as the segments
            of a population, start low and may need a larger factor or some warm-up steps.
        tangent_factor: Bound on the growth of the tangents relative to linear growth:
            tangent_factor · (1 + steps) times the norm reported first. Each step adds one term to
            ∂w/∂λ, and in a stable training the terms do not grow.
        n_warmup_steps: Number of steps in which only losses and tangents that are not finite are
            pruned; l₀ is the largest of the losses reported in them.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Note:
        Only explosions exceed the default bounds; they exceed bounds ten times as high a few
        steps later. Some trainings recover from an explosion, which is why the factor is no lower
        (``examples/benchmarks/pruners.py`` counts them).

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import DivergencePruner
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = trial.suggest_float("lr", 0, 4)
        ...     w = 1.0
        ...     for step in range(100):                     # descend w², which lr > 1 climbs
        ...         trial.report(w**2, step)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...         w -= lr * 2 * w
        ...     return w**2
        >>> study = optuna.create_study(pruner=DivergencePruner(factor=10))
        >>> study.enqueue_trial({"lr": 1.5})
        >>> study.optimize(objective, n_trials=1)
        >>> study.trials[0].state.name, study.trials[0].intermediate_values
        ('PRUNED', {0: 1.0, 1: 4.0, 2: 16.0})
    """

    def __init__(
        self, factor: float = 100.0, *, tangent_factor: float = 1000.0, n_warmup_steps: int = 0
    ) -> None:
        self._factor = _checked_factor("factor", factor)
        self._tangent_factor = _checked_factor("tangent_factor", tangent_factor)
        self._n_warmup_steps = checked_count("n_warmup_steps", n_warmup_steps, least=0)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial has blown up; False before its first report."""
        del study  # a trial is compared with itself alone
        losses = trial.intermediate_values
        return bool(losses) and (self._blew_up(losses) or self._exploded(read_tangent_norms(trial)))

    def _blew_up(self, losses: dict[int, float]) -> bool:
        last = max(losses)
        if not math.isfinite(losses[last]):
            return True
        if last < self._n_warmup_steps:
            return False
        early = [step for step in losses if step < self._n_warmup_steps] or [min(losses)]
        start = max((losses[step] for step in early if math.isfinite(losses[step])), default=0.0)
        # A loss of exactly zero has no scale to be measured by.
        return start != 0 and losses[last] > start + (self._factor - 1) * abs(start)

    def _exploded(self, norms: dict[int, float]) -> bool:
        if not norms:
            return False
        first, last = min(norms), max(norms)
        if not math.isfinite(norms[last]):
            return True
        bound = self._tangent_factor * (1 + last - first) * norms[first]
        return last >= self._n_warmup_steps and norms[last] > bound


def _checked_factor(argument: str, value: float) -> float:
    return checked_number(argument, value, "be a number above 1", lambda factor: factor > 1)
