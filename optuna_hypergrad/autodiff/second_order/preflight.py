"""What is found out about a training on its first batch, before it begins.

How Hessian products are taken (choose_hvp.py), and whether the training is what hypergradients take
it for (checks/). The answers are remembered for like models (signature.py) while the process lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, get_args

import torch
from torch import Tensor

from optuna_hypergrad.autodiff import checks
from optuna_hypergrad.autodiff.loss import Batch, TrainingLoss
from optuna_hypergrad.autodiff.second_order import hvp
from optuna_hypergrad.autodiff.second_order.choose_hvp import BATCHED_FROM, FirstBatch, Plan
from optuna_hypergrad.autodiff.second_order.signature import kind_of, signature_of
from optuna_hypergrad.autodiff.second_order.switching import switched_to
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.validation import Statistics, validating

_plans: dict[object, Plan] = {}
_passed: dict[object, None] = {}  # other checks
_MOST = 1000  # answers that are remembered; a number that every trial captures makes each unlike


def checked_products(products: hvp.Products) -> hvp.Products:
    """``products``, or a ValueError where it is none of the methods."""
    if products not in get_args(hvp.Products):
        raise ValueError(f"products must be one of {get_args(hvp.Products)}, got {products!r}.")
    return products


def preflight(
    loss: TrainingLoss,
    products: hvp.Products,
    batch: Batch,
    hparams: Values,
    n_tangents: int,
    constant_buffers: Collection[str] = (),
) -> hvp.HVPMethod:
    """Have a loss run so that it can be differentiated twice; gives how to take its products.

    The model, its buffers and the random number generators are as before afterwards.

    Args:
        loss: The training loss; its ``switched`` is set.
        products: A method to be used; ``"auto"`` to choose one.
        batch: A batch to try it on.
        hparams: Values of the hyperparameters of the loss.
        n_tangents: How many products are taken at a time.
        constant_buffers: Buffers whose dependence on the weights is left out.

    Raises:
        ValueError: If the model cannot be differentiated twice; the message names the module. If
            ``products`` is a method that fails for this model, or is not exact. If the training is
            none whose derivative these products give; see checks/.
    """
    several, constant = n_tangents >= BATCHED_FROM, frozenset(constant_buffers)
    key = (products, several, constant, signature_of(loss, batch, hparams))
    plan = _plans.get(key)
    if plan is None:
        with torch.enable_grad(), _unchanged(loss):
            with suppress(RuntimeError):  # what torch cannot do is named by what is tried next
                checks.check_state(loss, batch, hparams, constant)
            plan = FirstBatch(loss, batch, hparams).plan(products, several)
            loss.switched = switched_to(plan.kernels)
            checks.check_products(loss, batch, hparams)
        plan = plan._replace(used=frozenset(loss.used))
        _remember(_plans, key, plan)
    loss.switched = switched_to(plan.kernels)
    loss.used |= plan.used
    return hvp.HVP_METHODS[plan.method]


def check_validation(
    loss: TrainingLoss, batch: Batch, hparams: Values, statistics: Statistics
) -> None:
    """Raise a ValueError where the validation loss cannot be differentiated as it is computed.

    Args:
        loss: The validation loss.
        batch: A batch of the training, which stands for those of the validation.
        hparams: Values of the hyperparameters of the loss.
        statistics: What batch norm normalises with.
    """
    key = (statistics, signature_of(loss, batch, hparams))
    if key not in _passed:
        with torch.enable_grad(), _unchanged(loss), validating(loss.model, statistics):
            checks.check_loss(loss, batch, hparams)
        _remember(_passed, key, None)


def check_update(update: Update, weights: Tensor, hparams: Values) -> None:
    """Raise a ValueError where the update cannot be differentiated as it is computed.

    Args:
        update: The update.
        weights: Weights to take steps from, shape (D,).
        hparams: Values of its hyperparameters; tensors are learned.
    """
    values = tuple((name, torch.is_tensor(value), bool(value)) for name, value in hparams.items())
    key = (kind_of([update, weights], depth=6), values)
    if key not in _passed and checks.check_update_map(update, weights, hparams):
        _remember(_passed, key, None)


def _remember(answers: dict[object, Any], key: object, answer: Any) -> None:
    answers[key] = answer
    if len(answers) > _MOST:
        answers.pop(next(iter(answers)), None)  # the oldest


@contextmanager
def _unchanged(loss: TrainingLoss) -> Iterator[None]:
    """Put back the weights, all of a snapshot, and what the loss runs with."""
    point, switched = loss.weights.read(), loss.switched
    with Snapshotter(loss.model, loss.weights.device).unchanged():
        try:
            yield
        finally:
            loss.switched = switched
            loss.weights.write(point)
