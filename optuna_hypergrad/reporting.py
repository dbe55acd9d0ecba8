"""Reporting of losses during training, so that a pruner can end the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna import TrialPruned

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.reports.objective import check_trial, report_tangent_norms

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

GROWTH = 10.0  # factor of growth after which a norm is stored again, which costs a write


def watch(trial: BaseTrial, *, every: int) -> Watch:
    """Report the training loss during a run, and end the run if the study's pruner decides so.

    Use it as ``hypergradient(..., on_step=watch(trial, every=20))``, or call it in your own loop
    with each step and its loss. It reports the loss of the first step; then, every ``every`` steps,
    the mean loss since the last report, so that no explosion in between is missed; and the first
    loss that is not finite immediately. In forward mode it also stores the largest norm of the
    tangents ∂w/∂λ whenever that has grown tenfold. ``DivergencePruner`` uses both.

    Args:
        trial: The trial passed to the objective, of any sampler. A ``FixedTrial`` is never pruned.
        every: Number of steps between reports. Each is a write to the storage, about 5 to 20 ms in
            a database; about ten per run are enough.

    Raises:
        ValueError: If ``every`` is not a positive integer.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import DivergencePruner, watch
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = trial.suggest_float("lr", 0, 4)
        ...     w, on_step = 1.0, watch(trial, every=10)
        ...     for step in range(100):                     # descend w², which lr > 1 climbs
        ...         on_step(step, w**2)
        ...         w -= lr * 2 * w
        ...     return w**2
        >>> study = optuna.create_study(pruner=DivergencePruner())
        >>> study.enqueue_trial({"lr": 0.1})
        >>> study.enqueue_trial({"lr": 3.0})
        >>> study.optimize(objective, n_trials=2)
        >>> [(trial.state.name, trial.last_step) for trial in study.trials]
        [('COMPLETE', 90), ('PRUNED', 10)]
    """
    check_trial(trial)
    return Watch(trial, checked_count("every", every))


class Watch:
    """Reports the losses of one run; see ``watch``."""

    def __init__(self, trial: BaseTrial, every: int) -> None:
        self._trial, self._every = trial, every
        self._tangent_norm: Callable[[], float] | None = None
        self._norms: dict[int, float] = {}  # stored norms by step
        self._last_norm = 0.0  # the last of these
        self._total, self._count = 0.0, 0  # of the losses since the last report
        self._is_finite = True

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Report the norm of tangents as well.

        ``hypergradient`` calls this. In your own ``ForwardMode`` loop, call it with
        ``lambda: run.tangent_norm``.

        Args:
            tangent_norm: Returns the largest norm. It is called only at reports, since it waits
                for the device.
        """
        self._tangent_norm = tangent_norm

    def __call__(self, step: int, loss: float) -> None:
        """Record the loss of a step, and report if due.

        Args:
            step: The step, counted from 0.
            loss: Its training loss.

        Raises:
            optuna.TrialPruned: If the study's pruner ends the trial.
        """
        self._total += float(loss)
        self._count += 1
        blew_up = self._is_finite and not math.isfinite(self._total)
        if step % self._every == 0 or blew_up:
            self._is_finite = self._is_finite and not blew_up
            self._trial.report(self._total / self._count, step)
            self._total, self._count = 0.0, 0
            self._report_tangents(step)
            if self._trial.should_prune():
                raise TrialPruned(f"trial {self._trial.number} was pruned at training step {step}.")

    def _report_tangents(self, step: int) -> None:
        if self._tangent_norm is None:
            return
        norm = self._tangent_norm()
        has_grown = norm != 0 and not norm < GROWTH * self._last_norm  # NaN counts as growth
        if has_grown and math.isfinite(self._last_norm):
            self._norms[step] = self._last_norm = norm
            report_tangent_norms(self._trial, self._norms)
