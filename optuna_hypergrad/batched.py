"""Several trials of one process, whose training runs are computed as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_callable, check_kind, checked_count
from optuna_hypergrad.autodiff.batched.run_together import RunTogether
from optuna_hypergrad.logger import logger

Objective = Callable[[Trial], float | Sequence[float]]
Callback = Callable[[Study, FrozenTrial], None]


def optimize_batched(
    study: Study,
    objective: Objective,
    n_trials: int,
    *,
    batch_size: int = 8,
    timeout: float | None = None,
    catch: Iterable[type[Exception]] | type[Exception] = (),
    callbacks: Iterable[Callback] | None = None,
) -> None:
    """Optimize ``objective`` as ``study.optimize`` does, with several trials at a time.

    ``batch_size`` trials are asked for, and their calls of ``hypergradient`` are computed as one,
    on stacked tensors. This is faster where a single run leaves the device waiting for Python:
    small models on a CPU (replicates of a step, members of a population), most models on a GPU.
    Results are those of separate trials, but for rounding. What an objective does besides runs as
    it stands, one trial at a time, each in a thread and with random numbers of its own.

    Runs are computed together if they have the same steps, shapes of weights and batches, and
    operations; the others one after the other. Reverse mode and plain training can be. A trial
    that fails or is pruned does not touch the others, but its place in the batch stays empty.

    Args:
        study: The study.
        objective: The objective of one trial.
        n_trials: Number of trials.
        batch_size: Number of trials of a batch.
        timeout: Seconds after which no batch begins.
        catch: Exceptions of the objective that do not end the study.
        callbacks: Called after every trial.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Example:
        >>> import optuna
        >>> import torch
        >>> from optuna_hypergrad import (
        ...     GradientSampler,
        ...     optimize_batched,
        ...     report_hypergradient,
        ...     suggest_schedule,
        ... )
        >>> from optuna_hypergrad.autodiff import SGD, hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> def objective(trial):
        ...     torch.manual_seed(trial.number)
        ...     lr = suggest_schedule(trial, "lr", 0.01, 1.0, windows=2, log=True)
        ...     model = torch.nn.Linear(1, 1)
        ...     loss = lambda model, batch: ((model(batch) - 2 * batch) ** 2).mean()
        ...     result = hypergradient(model, loss, SGD(lr), [x], x, steps=20)
        ...     report_hypergradient(trial, result)
        ...     return result.loss
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> optimize_batched(study, objective, n_trials=8, batch_size=4)
        >>> study.best_value < 0.01
        True
    """
    check_kind("study", study, Study, "an optuna.Study")
    check_callable("objective", objective)
    left = checked_count("n_trials", n_trials)
    size = checked_count("batch_size", batch_size)
    caught, called = _checked_exceptions(catch), _checked_callbacks(callbacks)
    uncaught: list[BaseException] = []
    run_together = RunTogether()

    def run(trial: Trial) -> float | Sequence[float]:
        study._thread_local.in_optimize_loop = True  # for study.stop() in this thread
        return objective(trial)

    def batch(first: Trial) -> float | Sequence[float]:
        nonlocal left
        trials, ended = [first], []
        outcomes: list[Any] = []
        try:
            while len(trials) < min(size, left):
                trials.append(study.ask())
            left -= len(trials)
            run_together(run, trials, outcomes)
        finally:  # also where the batch was interrupted
            outcomes += [KeyboardInterrupt()] * (len(trials) - len(outcomes))
            for trial, outcome in zip(trials[1:], outcomes[1:], strict=True):
                ended.append(_ended(study, trial, outcome))
                if isinstance(outcome, BaseException):
                    is_caught = isinstance(outcome, (TrialPruned, *caught))
                    uncaught.extend([] if is_caught else [outcome])
        try:
            for frozen in ended:
                for callback in called:
                    callback(study, frozen)
        except Exception as error:
            uncaught.append(error)  # no exception of the objective
        if isinstance(outcomes[0], BaseException):
            raise outcomes[0]
        value: float | Sequence[float] = outcomes[0]
        return value

    def end(study: Study, trial: FrozenTrial) -> None:
        if uncaught:  # now that the first trial has been told, too
            raise uncaught[0]

    study.optimize(
        batch,
        n_trials=math.ceil(left / size),
        timeout=timeout,
        catch=caught,
        callbacks=[*called, end],
    )


def _ended(study: Study, trial: Trial, outcome: Any) -> FrozenTrial:
    """Tell the study how a trial ended."""
    if isinstance(outcome, TrialPruned):
        frozen = study.tell(trial, state=TrialState.PRUNED)
    elif isinstance(outcome, BaseException):
        frozen = study.tell(trial, state=TrialState.FAIL)
    else:
        frozen = study.tell(trial, outcome)
    if frozen.state == TrialState.FAIL:
        error = outcome if isinstance(outcome, BaseException) else None
        logger.warning(f"Trial {trial.number} failed: {outcome!r}.", exc_info=error)
    else:
        logger.info(f"Trial {trial.number} ended: {frozen.state.name}, values {frozen.values}.")
    return frozen


def _checked_exceptions(catch: Any) -> tuple[type[Exception], ...]:
    found = (catch,) if isinstance(catch, type) else catch
    expected = "an exception class, or an iterable of them"
    check_kind("catch", found, Iterable, expected)
    found = tuple(found)
    for one in found:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise ValueError(f"catch must be {expected}, got {catch!r}.")
    return found


def _checked_callbacks(callbacks: Any) -> list[Callback]:
    check_kind("callbacks", callbacks, Iterable | None, "an iterable of functions, or None")
    found = list(callbacks or ())
    for one in found:
        check_callable("callbacks", one)
    return found
