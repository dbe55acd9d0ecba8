"""The training loss of one model, as a function of its weights and of its own hyperparameters.

What torch's errors inside of a loss mean, where it is not the loss's own fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.arguments import check_callable
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops, hooks_while_stopped
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.weights import FlatWeights, Gradients, Reached

Batch = Any
LossFn = Callable[..., Tensor]


class LossGrad(NamedTuple):
    """The loss of one batch and its gradient."""

    loss: Tensor  # shape (), detached
    gradient: Tensor  # shape (D,)
    reached: Reached

    @staticmethod
    def mean(slopes: Sequence[LossGrad]) -> LossGrad:
        """That of the mean loss of several batches; it reaches what one of them reaches."""
        if len(slopes) == 1:
            return slopes[0]
        losses, gradients, flags = zip(*slopes, strict=True)
        reached = tuple(map(any, zip(*flags, strict=True)))
        return LossGrad(sum(losses) / len(slopes), sum(gradients) / len(slopes), reached)


class TrainingLoss:
    """A loss function, the model that it is called with, and how it is to be differentiated.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, hypers)`` where there are
            hyperparameters of the loss: the mean loss over the batch as a scalar tensor.
        weights: The model's learned weights.
        learned: Names of the hyperparameters of the loss that are learned, P of them.
        takes_hypers: Whether ``loss_fn`` gets the hyperparameters as a third argument.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        weights: FlatWeights,
        learned: Sequence[str] = (),
        takes_hypers: bool = False,
    ) -> None:
        check_callable("loss_fn", loss_fn)
        self.model, self.loss_fn, self.weights = model, loss_fn, weights
        self.learned, self._takes_hypers = list(learned), takes_hypers
        self.used: set[str] = set()  # the learned ones that a loss has depended on so far
        self.switched: Callable[[], AbstractContextManager[object]] = nullcontext

    def of(self, loss_fn: LossFn) -> TrainingLoss:
        """Another loss of the same model and hyperparameters."""
        other = TrainingLoss(self.model, loss_fn, self.weights, self.learned, self._takes_hypers)
        other.used = self.used
        return other

    def __call__(self, batch: Batch, hypers: Values) -> Tensor:
        """The loss; raises a ValueError where it is no scalar."""
        arguments = (batch, dict(hypers)) if self._takes_hypers else (batch,)
        with explained(batch, self.learned):
            loss = self.loss_fn(self.model, *arguments)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"loss_fn must return a scalar, got {got}.")
        return loss.reshape(())

    def differentiable(self, batch: Batch, hypers: Values) -> Tensor:
        """The loss; raises a ValueError where it does not depend on the weights."""
        loss = self(batch, hypers)
        if not loss.requires_grad:
            raise ValueError("loss_fn: its result does not depend on the model's weights.")
        return loss

    def graph(
        self, batch: Batch, hypers: Values, *, twice: bool, stops: Stops | None = None
    ) -> tuple[LossGrad, Gradients, list[Tensor]]:
        """The gradient by parameter, then by learned hyperparameter, and these as leaves.

        Args:
            batch: The batch.
            hypers: Values of the hyperparameters of the loss.
            twice: Whether the gradients can be differentiated again.
            stops: Whether they stop where the loss stops them, recorded on the way; None where
                they do, and nothing else is to be differentiated.
        """
        self.weights.check_trainable()
        own = {k: v.requires_grad_() for k, v in hypers.items() if isinstance(v, Tensor)}
        leaves = [*self.weights.parameters, *(own[name] for name in self.learned)]
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self.switched())
            if stops is not None:
                stack.enter_context(hooks_while_stopped(self.model, stops))
            with nullcontext() if stops is None else StopGradients(stops):
                loss = self.differentiable(batch, hypers)
            gradients = torch.autograd.grad(loss, leaves, create_graph=twice, allow_unused=True)
            if stops is not None:
                stops.forget()
        by_weight = gradients[: len(self.weights.parameters)]
        # What is behind a stop has no gradient, and may be used all the same.
        stopped = stops is not None and stops.found
        by_hyper = zip(self.learned, gradients[len(by_weight) :], strict=True)
        self.used.update(name for name, g in by_hyper if stopped or g is not None)
        reached = tuple(gradient is not None for gradient in by_weight)
        slope = LossGrad(loss.detach(), self.weights.join(by_weight), reached)
        return slope, gradients, leaves

    def slope(self, batch: Batch, hypers: Values) -> LossGrad:
        """The loss and its gradient by the weights, as the training takes it."""
        return self.graph(batch, hypers, twice=False)[0]


# Parts of what torch says to a tensor where it wants a number.
_WANTS_A_NUMBER = (
    "not Tensor",
    "Tensor, ",  # among the kinds that were got
    "only integer tensors",
    "not differentiable with respect to argument",
    "Can't call numpy() on Tensor",
)


@contextmanager
def explained(batch: object, learned: Sequence[str]) -> Iterator[None]:
    """Within it, some of torch's errors are raised again with what to do about them.

    Args:
        batch: What the loss is called with.
        learned: Names of the hyperparameters that it gets as tensors.

    Raises:
        TypeError: Where the batch holds numpy arrays, or a learned value is where torch takes only
            numbers.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:
        told = str(error).split("\n")[0].rstrip(".")
        if isinstance(error, TypeError) and _has_arrays(batch):
            raise TypeError(
                f"loss_fn: {told}. The batch holds numpy arrays: give batches and validation as "
                "tensors, made by torch.from_numpy, or make them in loss_fn."
            ) from error
        if learned and any(part in str(error) for part in _WANTS_A_NUMBER):
            names = ", ".join(map(repr, learned))
            raise TypeError(
                f"loss_fn: {told}. Values of hypers that are learned ({names}) are tensors, which "
                "torch does not take for every argument: write the formula out, such as "
                "(1 - s) * F.cross_entropy(z, y) - s * F.log_softmax(z, dim=-1).mean() for label "
                "smoothing s, or use optuna_hypergrad.autodiff.relaxations: relaxed_dropout for a "
                "dropout rate, rounded for an integer, chosen for a choice."
            ) from error
        raise


def _has_arrays(batch: object) -> bool:
    return any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(batch))
