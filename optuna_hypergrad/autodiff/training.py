"""A whole training run with hypergradients, in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from optuna_hypergrad.arguments import check_callable, checked_count
from optuna_hypergrad.autodiff.data import check_validation
from optuna_hypergrad.autodiff.forecast import foretold
from optuna_hypergrad.autodiff.forward import ForwardMode
from optuna_hypergrad.autodiff.loss import Batch, LossFn
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress, WatchesTangents
from optuna_hypergrad.autodiff.recompute.player import Player
from optuna_hypergrad.autodiff.recompute.tape import Keeper, Place, check_place
from optuna_hypergrad.autodiff.result import Hypergradient, metered
from optuna_hypergrad.autodiff.reverse import ReverseMode
from optuna_hypergrad.autodiff.run import Initial, Run
from optuna_hypergrad.autodiff.second_order.hvp import Products
from optuna_hypergrad.autodiff.stream import Batches, Stream, looking_ahead, undisturbed
from optuna_hypergrad.autodiff.tangents import Columns, Truncation
from optuna_hypergrad.autodiff.updates import Hyper, State, Update
from optuna_hypergrad.autodiff.validation import Statistics, check_statistics

Mode = Literal["forward", "reverse", "auto"]


def hypergradient(
    model: nn.Module,
    loss_fn: LossFn,
    update: Update,
    batches: Batches,
    validation: Batch | Iterable[Batch],
    *,
    steps: int,
    mode: Mode = "forward",
    hypers: Mapping[str, Hyper] | None = None,
    initial: Initial | None = None,
    accumulate: int = 1,
    validation_loss_fn: LossFn | None = None,
    statistics: Statistics = "batch",
    learn: Collection[str] | None = None,
    share: Collection[str] | None = None,
    average: bool = False,
    truncate: float = 0.0,
    truncation: Truncation = "leading",
    clip_products: float | None = None,
    clip_gradients: float | None = None,
    constant_buffers: Collection[str] = (),
    products: Products = "auto",
    memory: int | None = None,
    checkpoints: Place = "device",
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = False,
    state: State | None = None,
) -> Hypergradient:
    """Train ``model`` and differentiate its validation loss through all of the training.

    Both modes give the same hypergradient. Forward mode takes one Hessian product a step for each
    parameter whose window has begun, in memory of parameters × weights, however many steps there
    are. Reverse mode takes one Hessian product a step, however many parameters there are, and
    runs some steps twice; it keeps gradients and checkpoints in a memory that can be named.

    The model is trained in place and holds the trained weights afterwards (at the end their
    average, where the update is ``Averaged``), also where the run is interrupted. Data must be on
    the model's device.

    Args:
        model: The model, with its initial weights and in the mode it is to be trained in.
        loss_fn: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, hypers)`` where ``hypers``
            are given: the mean loss over a batch as a scalar tensor.
        update: The inner update, for example ``SGD(lr, momentum=momentum)``; what it holds as a
            ``Schedule`` is learned.
        batches: A sequence or another iterable that can be iterated again (a ``DataLoader``),
            repeated as often as the steps need; or a function from the step to its batch.
            Reverse mode asks for batches again, a ``DataLoader`` from the start of its pass.
        validation: One batch (a tensor, a mapping, or a tuple or list that holds a tensor), or
            an iterable of batches, each of which counts by its number of examples. Where the
            training batches are tensors themselves, a list of tensors is a list of batches.
        steps: Number of training steps.
        mode: ``"forward"``, ``"reverse"``, or ``"auto"``: whichever is foretold to be faster.
        hypers: Hyperparameters of the loss by name, numbers or schedules; the loss functions get
            their values at the step as a third argument (in validation those of the last step):
            floats, or tensors of shape () where they are learned.
        initial: ``initial(weights, hypers)``: new values for some of the initial weights, from
            all of them by name and the values of ``hypers`` at the first step.
        accumulate: Number of batches whose mean loss each step takes; one is in memory at a time.
        validation_loss_fn: The validation loss, where it is another than the training loss.
        statistics: ``"batch"`` or ``"running"`` statistics for batch norm in validation.
        learn: Parameters to differentiate; None for all, ``()`` to train only, at the cost of
            plain training.
        share: Forward mode: those of the learned parameters whose derivatives this call gives,
            where other processes give the rest from the same training, as
            ``optuna_hypergrad.distributed`` arranges it; None for all of them.
        average: Mean over a parameter's steps instead of the sum.
        truncate: Fraction of each window's steps at which tangents stand still.
        truncation: ``"leading"`` or ``"alternate"`` steps.
        clip_products: Bound on the entries of Hessian products, or None.
        clip_gradients: Bound on the entries of training gradients, or None.
        constant_buffers: Buffers of the model, or modules with all of theirs, by their paths: what
            later steps owe to the weights through them counts as constant.
        products: ``"auto"``, or how Hessian products are taken. ``ForwardMode`` says more on each
            of the arguments from ``learn`` on.
        memory: Reverse mode: bytes that checkpoints and recorded gradients may take; None for
            384 MiB where a third of all gradients fit in there, else for what one level of
            checkpoints needs, which grows as √steps. Less memory means more steps that are run
            again.
        checkpoints: Where these are kept: ``"device"``, ``"host"`` (pinned memory) or ``"disk"``
            (a temporary folder; there, None is room for every gradient).
        on_step: Called with the step and its training loss after every step; it may raise, for
            example ``optuna.TrialPruned``, to end the run (``optuna_hypergrad.watch`` does). What
            it draws from random number generators does not change the run. In forward mode its
            method ``attach``, if it has one, is given a function that tells the norm of the
            tangents.
        progress: Show a progress bar of the whole outer step, going back included, with the time
            that is left: on standard error where that is a terminal, or in a notebook.
        state: What the update remembers from an earlier run, its ``result.state``, to go on from
            (segments of a population, a long training in parts); None for a start from nothing.
            It counts as fixed: hypergradients see nothing of the runs before.

    Returns:
        Hypergradients by trial parameter, the validation loss and what else the run measured.

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
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}.")
    for argument, function in (("on_step", on_step), ("validation_loss_fn", validation_loss_fn)):
        if function is not None:
            check_callable(argument, function)
    check_statistics(statistics)  # before the training, not after it
    check_validation(validation)
    check_place(checkpoints)
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
    stream = Stream(batches, run.weights.device, accumulate)
    columns = Columns(run.hypers, truncate, truncation, share)
    mode = mode if run.hypers.names else "forward"  # nothing to differentiate: train
    obstacle = _obstacle(run, stream, columns, clip_products)
    if mode == "reverse" and obstacle:
        raise ValueError(f"mode='reverse' {obstacle}.")
    check = partial(run.validated, loss_fn=validation_loss_fn, statistics=statistics)
    forecast = None
    if mode == "auto" and not obstacle:
        forecast = foretold(run, stream, validation, check, memory)
        mode = forecast.faster
    if run.hypers.names and not stream.once_only:
        with looking_ahead(run, stream):  # what torch loads for it is not the run's cost
            first = stream.take()[0]
            run.prepare(first, 1 if mode == "reverse" else columns.rows)
            run.check_validation(first, validation_loss_fn, statistics)
    stream.repeats = mode == "reverse"
    with metered(run.weights.device) as cost, Progress(shown=progress) as bar:
        trainer: ForwardMode | ReverseMode
        if mode == "reverse":
            player = Player(run, stream, Keeper(checkpoints), memory)
            trainer = back = ReverseMode(run, player, average=average, progress=bar)
            losses = back.train()
        else:
            trainer = ahead = ForwardMode.over(run, columns, average, clip_products)
            costs = _costs(Columns(run.hypers, truncate, truncation, share), steps, bar)
            losses = _forwards(ahead, stream, costs, bar)
            if isinstance(on_step, WatchesTangents):
                on_step.attach(lambda: ahead.tangent_norm)
        for step, loss in enumerate(losses):
            if on_step is not None:
                with undisturbed(run, step, trainer.point, stream.generators):
                    on_step(step, float(loss))
        result = trainer.hypergradient(
            validation, loss_fn=validation_loss_fn, statistics=statistics
        )
        trainer.finish()
    return replace(result, cost=cost, forecast=forecast)


def _costs(columns: Columns, steps: int, bar: Progress) -> list[float]:
    """What each step forwards will cost, in plain training steps; looked at by the bar only."""
    if not bar.seen:
        return [0.0] * steps
    return [1.0 + PRODUCT * len(columns.advance(step).rows) for step in range(steps)]


def _forwards(
    ahead: ForwardMode, stream: Stream, costs: list[float], bar: Progress
) -> Iterator[Tensor]:
    """The training in forward mode; yields the loss of every step."""
    bar.expect(sum(costs))
    bar.phase("training", len(costs))
    for cost in costs:
        loss = ahead.step(*stream.take())
        bar.step(cost, loss)
        yield loss


def _obstacle(
    run: Run, stream: Stream, columns: Columns, clip_products: float | None
) -> str | None:
    """Why reverse mode cannot be had, if so."""
    if columns.truncates or clip_products is not None:
        return "is exact: truncate and clip_products are for mode='forward'"
    if columns.is_share:
        return "takes all parameters at once: share is for mode='forward'"
    if stream.once_only:
        return "goes through batches again, but they are an iterator that ends"
    return None
