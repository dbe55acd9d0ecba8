"""The validation loss and its gradient, without a trace left on the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_choice
from optuna_hypergrad.autodiff.batches import check_validation, sized
from optuna_hypergrad.autodiff.loss import Batch, LossFn, TrainingLoss
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopState
from optuna_hypergrad.autodiff.updates.protocol import Values

__all__ = ["Batch", "LossFn", "Statistics", "Validated", "validate"]

Statistics = Literal["batch", "running"]


class Validated(NamedTuple):
    """The mean validation loss and its gradient."""

    loss: float
    gradient: Tensor  # by the weights, shape (D,)
    direct: dict[str, float]  # by the learned hyperparameters of the loss itself


def validate(
    loss: TrainingLoss,
    validation: Batch | Iterable[Batch],
    statistics: Statistics,
    hparams: Values,
    of_tensors: bool = False,
    exact: bool = True,
) -> Validated:
    """Mean loss over all examples in evaluation mode, and its gradient.

    Args:
        loss: The validation loss; its model's mode, buffers and running statistics are the same
            afterwards.
        validation: One batch or an iterable of batches, each of which counts by its number of
            examples; see ``batches.is_batch``.
        statistics: What batch norm normalises with: ``"batch"``, the statistics of the validation
            batch, through which the gradient is exact; or ``"running"``, as the finished model
            does, which the gradient then takes for constants.
        hparams: Values of the hyperparameters of the loss.
        of_tensors: Whether the training batches are tensors themselves, so that a list of tensors
            is a list of batches.
        exact: Whether the gradient is that of the loss itself; else, where the loss stops
            gradients, that which training takes.

    Raises:
        ValueError: If there is no batch, or the size of one among others is unknown.
    """
    check_choice("statistics", statistics, get_args(Statistics))
    check_validation(validation)
    total, loss_sum, n = 0, 0.0, len(loss.weights.parameters)
    gradient_sum = torch.zeros_like(loss.weights.read())
    direct_sum = gradient_sum.new_zeros(len(loss.learned))
    with validating(loss.model, statistics):
        for batch, size in sized(validation, of_tensors):
            stops = StopState(active=False) if exact else None
            found, gradients, _ = loss.gradients(batch, hparams, twice=False, stops=stops)
            gradient_sum += size * found.gradient
            for k, part in enumerate(gradients[n:]):
                direct_sum[k] += 0.0 if part is None else size * part
            loss_sum += size * float(found.loss)
            total += size
    if total == 0:
        raise ValueError("validation: got no examples, expected at least one batch.")
    direct = dict(zip(loss.learned, (direct_sum / total).tolist(), strict=True))
    return Validated(loss_sum / total, gradient_sum / total, direct)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within it; afterwards every module has its mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def validating(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Evaluation mode within it, as statistics say; all modes and buffers are as before."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    modes = [norm.training for norm in norms]
    device = next(model.parameters()).device
    with Snapshotter(model, device).unchanged(generators=False):
        model.eval()
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode and statistics == "batch")
        yield
