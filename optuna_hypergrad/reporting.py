"""A training run watched from within, so that a pruner can end it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna import TrialPruned

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.reports import check_trial, report_tangent_norms

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

GROWTH = 10.0  # a norm is stored again when it has grown by this factor: each time is a write


def watch(trial: BaseTrial, *, every: int) -> Watch:
    """Report a run's training loss while it trains, and end it where the study's pruner says so.

    For ``hypergradient(..., on_step=watch(trial, every=20))``, or to be called in a loop of one's
    own with each step and its loss. The first step's loss is reported, then at every
    ``every``-th step the mean since the last report, in which no explosion between two reports
    is lost; and at once the first loss that is not finite. In forward mode the largest norm of
    the tangents ∂w/∂λ is stored with it, whenever it has grown tenfold (``DivergencePruner``
    judges both).

    Args:
        trial: The trial that the objective was given, of any sampler. A ``FixedTrial`` is never
            pruned.
        every: Number of steps between reports. Each is a write to the storage, which takes some
            5 to 20 ms where that is a database; about ten a run are enough.

    Raises:
        ValueError: If ``every`` is no positive integer.

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
    """Watches one run; see ``watch``."""

    def __init__(self, trial: BaseTrial, every: int) -> None:
        self._trial, self._every = trial, every
        self._tangent_norm: Callable[[], float] | None = None
        self._norms: dict[int, float] = {}  # what is stored of it, by step
        self._known = 0.0  # the last of these
        self._total, self._count = 0.0, 0  # of the losses since the last report
        self._is_finite = True

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Watch tangents, too.

        ``hypergradient`` calls it; in a ``ForwardMode`` loop of one's own it is for you to call,
        with ``lambda: run.tangent_norm``.

        Args:
            tangent_norm: Gives their largest norm when it is called, which is only at reports,
                since it waits for the device.
        """
        self._tangent_norm = tangent_norm

    def __call__(self, step: int, loss: float) -> None:
        """Take note of a step.

        Args:
            step: The step, from 0 on.
            loss: Its training loss.

        Raises:
            optuna.TrialPruned: If the study's pruner ends the trial.
        """
        self._total += float(loss)
        self._count += 1
        blew_up = self._is_finite and not math.isfinite(self._total)
        if step % self._every == 0 or blew_up:
            self._is_finite = self._is_finite and not blew_up
            self._report(step)

    def _report(self, step: int) -> None:
        self._trial.report(self._total / self._count, step)
        self._total, self._count = 0.0, 0
        self._report_tangents(step)
        if self._trial.should_prune():
            raise TrialPruned(f"trial {self._trial.number} was pruned at training step {step}.")

    def _report_tangents(self, step: int) -> None:
        if self._tangent_norm is None:
            return
        norm = self._tangent_norm()
        has_grown = norm != 0 and not norm < GROWTH * self._known  # a NaN has, too
        if has_grown and math.isfinite(self._known):
            self._norms[step] = self._known = norm
            report_tangent_norms(self._trial, self._norms)
