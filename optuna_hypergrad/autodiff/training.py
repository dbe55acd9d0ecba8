"""A training run with hypergradients, in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_callable, check_choice, checked_count
from optuna_hypergrad.autodiff.batched.participants import current
from optuna_hypergrad.autodiff.batched.request import Request
from optuna_hypergrad.autodiff.batches import TrainingBatches
from optuna_hypergrad.autodiff.data import Batch, Batches, check_validation
from optuna_hypergrad.autodiff.forward import (
    TangentObserver,
    TangentPropagation,
    check_without_tensors,
)
from optuna_hypergrad.autodiff.generators import GeneratorStates
from optuna_hypergrad.autodiff.growth import Estimate
from optuna_hypergrad.autodiff.initial import Initial
from optuna_hypergrad.autodiff.loss import LossFn, Statistics
from optuna_hypergrad.autodiff.progress import Progress
from optuna_hypergrad.autodiff.recompute.memory import CheckpointStore, Place, metered
from optuna_hypergrad.autodiff.recompute.recomputation import Recomputation
from optuna_hypergrad.autodiff.result import Hypergradient
from optuna_hypergrad.autodiff.reverse import ReverseMode
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.hvp import Products
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.step import TrainState
from optuna_hypergrad.autodiff.tangents import TangentSchedule, Truncation
from optuna_hypergrad.autodiff.updates import Hparam, State, Update

Mode = Literal["auto", "forward", "reverse"]

FEW = 1
"""Learned parameters up to which mode="auto" is forward mode.

CPU time of a run in plain trainings, one thread, torch 2.14, forward against reverse mode. One
parameter: LeNet-5, batches of 128, 20 steps, 2.1 against 2.9; a transformer, batches of 32, 60
steps, 2.5 against 3.7; an MLP of 64-64-10 units, batches of 32, 300 steps, 4.4 against 3.6. Two
windows: 3.0 against 3.4, 3.4 against 3.8, 4.9 against 3.5. Nine: LeNet-5 8.3 against 3.3.
"""


def hypergradient(
    model: nn.Module,
    loss_fn: LossFn,
    update: Update,
    batches: Batches,
    validation: Batch | Iterable[Batch],
    *,
    steps: int,
    mode: Mode = "auto",
    hypers: Mapping[str, Hparam | Tensor | NDArray[Any]] | None = None,
    initial: Initial | None = None,
    accumulate: int = 1,
    validation_loss_fn: LossFn | None = None,
    statistics: Statistics = "batch",
    learn: Collection[str] | bool | None = None,
    share: Collection[str] | None = None,
    average: bool = False,
    truncate: float = 0.0,
    truncation: Truncation = "leading",
    clip_products: float | None = None,
    estimate: Estimate = "damped",
    clip_gradients: float | None = None,
    constant_buffers: Collection[str] = (),
    products: Products = "auto",
    memory: int | None = None,
    checkpoints: Place = "device",
    compiled: bool = False,
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = False,
    state: State | None = None,
) -> Hypergradient:
    """Train ``model`` and differentiate its validation loss through the whole training.

    Both modes give the same exact hypergradient. Forward mode takes one Hessian product a step for
    each parameter whose window has begun, in memory of parameters × weights for any number of
    steps. Reverse mode takes one Hessian product a step for any number of parameters, and computes
    some steps twice; it stores gradients and checkpoints in a memory that you can set.

    The model is trained in place and holds the trained weights afterwards (at the end their
    average, if the update is ``Averaged``), even if the run is interrupted. Data must be on the
    model's device.

    Args:
        model: The model, with its initial weights and in the mode to train it in.
        loss_fn: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, hypers)`` if ``hypers`` are
            given: the mean loss over a batch as a scalar tensor.
        update: The inner update, for example ``SGD(lr, momentum=momentum)``; its values that are
            a ``Schedule`` are learned.
        batches: A sequence or another iterable that can be iterated again (a ``DataLoader``),
            repeated as often as the steps need; or a function from the step to its batch.
            Reverse mode asks for batches again, a ``DataLoader`` from the start of its pass.
        validation: One batch (a tensor, a mapping, or a tuple or list that holds a tensor), or
            an iterable of batches, each weighted by its number of examples. If the training
            batches are tensors themselves, a list of tensors is a list of batches.
        steps: Number of training steps.
        mode: ``"forward"``, ``"reverse"`` or ``"auto"``: forward mode for a single learned
            parameter, for ``truncate``, ``clip_products`` and ``share``, and for batches that come
            only once (an iterator), else reverse mode.
        hypers: Hyperparameters of the loss by name: numbers, schedules, or tensors or numpy arrays
            of any shape, which are learned as a whole (weights of examples, say; see
            ``suggest_array``) and take reverse mode. The loss functions get their values at the
            step as a third argument (in validation those of the last step): floats, tensors of
            shape () if learned, or tensors.
        initial: ``initial(weights, hypers)``: new values for some of the initial weights, given
            all of them by name and the values of ``hypers`` at the first step.
        accumulate: Number of batches whose mean loss each step takes; one is in memory at a time.
        validation_loss_fn: The validation loss; None for the training loss.
        statistics: ``"batch"`` or ``"running"`` statistics for batch norm in validation.
        learn: Parameters and tensors to differentiate; None or True for all, ``()`` or False to
            train only, at the cost of plain training.
        share: Forward mode: the learned parameters to differentiate in this process, if others
            differentiate the rest of the same training, as ``optuna_hypergrad.distributed``
            arranges; None for all.
        average: Mean over a parameter's steps instead of the sum; see ``ForwardMode``.
        truncate: Fraction of each window's steps at which tangents stand still.
        truncation: ``"leading"`` or ``"alternate"`` steps.
        clip_products: Bound on the entries of Hessian products, or None. The modes then differ,
            since they take products of different vectors.
        estimate: ``"damped"``: where a step would lengthen the derivatives, a part of its Hessian
            product is left out (``result.growth`` says how much), so that hypergradients keep a
            useful size and sign where training is chaotic; or ``"exact"``, the derivative itself,
            which explodes there. Where no step lengthens derivatives, both are the same.
        clip_gradients: Bound on the entries of training gradients, or None.
        constant_buffers: Buffers of the model, or modules with all of theirs, by their paths, that
            are taken as constants: derivatives of later steps through them are left out. Running
            statistics of batch norm always are.
        products: ``"auto"``, or how Hessian products are taken; see ``ForwardMode``.
        memory: Reverse mode: bytes that checkpoints and recorded gradients may take; None for
            384 MiB if a third of all gradients fit in, else for what one level of checkpoints
            needs, which grows as √steps. Less memory means more steps that are computed again.
        checkpoints: Where these are stored: ``"device"``, ``"host"`` (pinned memory) or ``"disk"``
            (a temporary folder, where None is room for every gradient).
        compiled: Reverse mode: let torch's inductor compile the steps back (not the training
            itself), which needs a C++ compiler, on a GPU also Triton. That takes seconds to minutes
            in the first trial of a process, and changes results by rounding. Runs that are computed
            together are not compiled.
        on_step: Called with the step and its training loss after every step; it may raise, for
            example ``optuna.TrialPruned``, to end the run (``optuna_hypergrad.watch`` does).
            Random numbers that it draws do not change the run. In forward mode its method
            ``attach``, if any, gets a function that returns the norm of the tangents.
        progress: Show a progress bar of the whole run, going back included, with the time left: on
            standard error if that is a terminal, or in a notebook.
        state: State of the update to continue from, the ``result.state`` of an earlier run
            (segments of a population, a long training in parts); None for a fresh start. It is a
            constant: hypergradients do not reach into earlier runs.

    Returns:
        Hypergradients by trial parameter, the validation loss and other measurements of the run.

    Raises:
        ValueError: If an argument is out of range or ``batches`` end too early; the message
            names it.

    Reference:
        FDS, Algorithm 1 (the inner loop).

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD, hypergradient
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        >>> x = torch.ones(1, 1)
        >>> result = hypergradient(model, loss, SGD(Schedule("lr", [0.5])), [x], x, steps=2)
        >>> result.gradient, result.loss
        ({'lr': -0.25}, 0.03125)
    """
    check_choice("mode", mode, get_args(Mode))
    for argument, function in (("on_step", on_step), ("validation_loss_fn", validation_loss_fn)):
        if function is not None:
            check_callable(argument, function)
    check_choice("statistics", statistics, get_args(Statistics))  # before training, not after it
    check_validation(validation)
    store = CheckpointStore(checkpoints)
    if memory is not None:
        checked_count("memory", memory)
    run = Run(
        model,
        loss_fn,
        update,
        steps=steps,
        hypers=hypers,
        initial=initial,
        learn=learn,
        clip_gradients=clip_gradients,
        products=products,
        constant_buffers=constant_buffers,
        state=state,
    )
    data = TrainingBatches(batches, run.weights.device, accumulate)
    tangents = TangentSchedule(run.hypers, truncate, truncation, share)
    participant = current()  # of several whose runs are computed together
    is_together = participant is not None
    mode = _chosen_mode(mode, run, data, tangents, clip_products, is_together, compiled)
    run.expect(1 if mode == "reverse" else tangents.max_rows)
    data.keeps_passes = mode == "reverse"
    if run.hypers.is_learning and not data.is_iterator:
        # What torch loads for this is not part of the run's cost.
        with Snapshotter(model, run.weights.device, data.generators).unchanged():
            run.check(data.peek(), validation_loss_fn, statistics)
    if participant is not None and (mode == "reverse" or not run.hypers.is_learning):
        request = Request(
            run=run,
            data=data,
            validation=validation,
            validation_loss_fn=validation_loss_fn,
            statistics=statistics,
            average=average,
            clip_products=clip_products,
            estimate=estimate,
            store=store,
            memory=memory,
            on_step=on_step,
            progress=progress,
        )
        found = participant.wait_for(request)
        if found is not None:
            return found
    shown = Progress() if progress else nullcontext()
    with metered(run.weights.device) as cost, shown as bar:
        if bar is not None:
            bar.phase("training", steps)
        trainer: ReverseMode | TangentPropagation
        if mode == "reverse":
            recomputation = Recomputation(run, data, store, memory)
            trainer = reverse = ReverseMode(
                run,
                recomputation,
                average=average,
                clip_products=clip_products,
                estimate=estimate,
                compiled=compiled,
                bar=bar,
            )
            losses = reverse.train()
        else:
            trainer = forward = TangentPropagation(
                run, tangents, average=average, clip_products=clip_products, estimate=estimate
            )
            losses = forward.train(data, bar)
            if isinstance(on_step, TangentObserver):
                on_step.attach(lambda: forward.tangent_norm)
        for step, loss in enumerate(losses):
            if on_step is not None:
                with _without_effect(run, data, step, trainer.point):
                    on_step(step, float(loss))
        result = trainer.hypergradient(
            validation, loss_fn=validation_loss_fn, statistics=statistics
        )
        trainer.finish()
    return replace(result, cost=cost)


def _chosen_mode(
    mode: Mode,
    run: Run,
    batches: TrainingBatches,
    tangents: TangentSchedule,
    clip_products: float | None,
    is_together: bool,
    compiled: bool,
) -> Mode:
    """The mode to run in; a ValueError if reverse mode is asked for but impossible."""
    n_learned, tensors = len(run.hypers.names), run.hypers.tensors
    if mode == "forward":
        check_without_tensors(run.hypers)
        if compiled:
            raise ValueError("compiled=True compiles steps back, which mode='forward' has not.")
    is_few = mode == "auto" and n_learned <= FEW and not tensors and not (is_together or compiled)
    if mode == "forward" or is_few or not run.hypers.is_learning:
        return "forward"
    obstacle = None
    if tangents.is_truncated:
        obstacle = "has no tangents to stand still: truncate is for mode='forward'"
    elif tangents.is_share:
        obstacle = "takes all parameters at once: share is for mode='forward'"
    elif batches.is_once_only:
        obstacle = "takes batches again, but they can be taken only once"
    if obstacle is not None and (mode == "reverse" or tensors):
        asked = "mode='reverse'" if mode == "reverse" else f"learning the tensor {tensors[0]!r}"
        raise ValueError(f"{asked} {obstacle}.")
    # As the paper clips.
    is_published = mode == "auto" and clip_products is not None and not tensors
    return "reverse" if obstacle is None and not is_published else "forward"


@contextmanager
def _without_effect(
    run: Run, batches: TrainingBatches, step: int, point: TrainState
) -> Iterator[None]:
    """Around ``on_step``, which may draw random numbers, but must not change the model.

    Raises:
        ValueError: If it changed the model or the update; the message says what.
    """
    generators = GeneratorStates.now(run.weights.device, batches.generators)
    versions = run.versions()
    yield
    generators.restore()
    run.check_unchanged(step, point, versions)
