"""A whole training run with hypergradients, in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal

from torch import Tensor, nn

from optuna_hypergrad.autodiff.columns import Truncation
from optuna_hypergrad.autodiff.forward import ForwardMode, Hypergradient
from optuna_hypergrad.autodiff.products import Products
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.validation import (
    Batch,
    LossFn,
    Statistics,
    check_statistics,
    is_batch,
)

Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


def hypergradient(
    model: nn.Module,
    loss_fn: LossFn,
    update: Update,
    batches: Batches,
    validation: Batch | Iterable[Batch],
    *,
    steps: int,
    mode: Literal["forward"] = "forward",
    validation_loss_fn: LossFn | None = None,
    statistics: Statistics = "batch",
    learn: Collection[str] | None = None,
    average: bool = False,
    truncate: float = 0.0,
    truncation: Truncation = "leading",
    clip_products: float | None = None,
    clip_gradients: float | None = None,
    products: Products = "auto",
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = False,
) -> Hypergradient:
    """Train ``model`` and differentiate its validation loss through all of the training.

    Time grows with the number of columns (one Hessian product a step for each parameter whose
    window has begun), memory with columns × weights but not with the number of steps.

    The model is trained in place and holds the trained weights afterwards, also where the run is
    interrupted. Data must be on the model's device.

    Args:
        model: The model, with its initial weights and in the mode it is to be trained in.
        loss_fn: ``loss_fn(model, batch)``, the mean loss over a batch as a scalar tensor.
        update: The inner update, for example ``SGD(lr, momentum=momentum)``; what it holds as a
            ``Schedule`` is learned.
        batches: A sequence or another iterable that can be iterated again (a ``DataLoader``),
            repeated as often as the steps need; or a function from the step to its batch.
        validation: One batch (a tensor, a mapping, or a tuple or list that holds a tensor), or
            an iterable of batches, each of which counts by its number of examples.
        steps: Number of training steps.
        mode: ``"forward"``.
        validation_loss_fn: The validation loss, where it is another than the training loss.
        statistics: ``"batch"`` or ``"running"`` statistics for batch norm in validation.
        learn: Parameters to differentiate; None for all, ``()`` to train only, at the cost of
            plain training.
        average: Mean over a parameter's steps instead of the sum.
        truncate: Fraction of each window's steps at which tangents stand still.
        truncation: ``"leading"`` or ``"alternate"`` steps.
        clip_products: Bound on the entries of Hessian products, or None.
        clip_gradients: Bound on the entries of training gradients, or None.
        products: ``"auto"``, ``"loop"`` or ``"batched"``. ``ForwardMode`` says more on each of
            the arguments from ``learn`` on.
        on_step: Called with the step and its training loss after every step; it may raise, for
            example ``optuna.TrialPruned``, to end the run.
        progress: Show a progress bar on standard error, where that is a terminal.

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
    if mode != "forward":
        raise ValueError(f"mode must be 'forward', got {mode!r}.")
    check_statistics(statistics)  # before the training, not after it
    if isinstance(batches, tuple | Tensor) and is_batch(batches):
        raise ValueError("batches: got a single batch; expected a sequence of batches.")
    run = ForwardMode(
        model,
        loss_fn,
        update,
        steps=steps,
        learn=learn,
        average=average,
        truncate=truncate,
        truncation=truncation,
        clip_products=clip_products,
        clip_gradients=clip_gradients,
        products=products,
    )
    for step, batch in _with_progress(enumerate(_stream(batches, steps)), steps, progress):
        loss = run.step(batch)
        if on_step is not None:
            on_step(step, float(loss))
    return run.hypergradient(validation, loss_fn=validation_loss_fn, statistics=statistics)


def _stream(batches: Batches, steps: int) -> Iterator[Batch]:
    """As many batches as there are steps, from the start again where they end."""
    if callable(batches):
        yield from map(batches, range(steps))
        return
    left = steps
    while left:
        before = left
        for batch in batches:
            yield batch
            left -= 1
            if not left:
                return
        if left == before:
            raise ValueError(
                f"batches ended after {steps - left} of {steps} steps; expected a sequence, an "
                "iterable that can be iterated again, or a function from the step to its batch."
            )


def _with_progress(
    steps: Iterator[tuple[int, Batch]], total: int, progress: bool
) -> Iterable[tuple[int, Batch]]:
    if not progress:
        return steps
    from tqdm.auto import tqdm

    bar: Iterable[tuple[int, Batch]] = tqdm(
        steps, total=total, desc="training", unit="step", disable=None
    )
    return bar
