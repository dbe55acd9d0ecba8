"""The training loss of one model as a function of its weights and of its own hyperparameters.

And the validation loss with its gradient, which leave no trace on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.arguments import check_callable, check_choice
from optuna_hypergrad.autodiff.data import Batch, check_validation, sized
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopState, calls_functions, recorded
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.weights import FlatWeights, Gradients, HasGrad

LossFn = Callable[..., Tensor]
Statistics = Literal["batch", "running"]  # what batch norm normalises with in validation
_UNRECORDED = nullcontext(nullcontext())


class LossGrad(NamedTuple):
    """The loss of one batch and its gradient."""

    loss: Tensor  # shape (), detached
    gradient: Tensor  # shape (D,)
    has_grad: HasGrad

    @staticmethod
    def mean(parts: Sequence[LossGrad]) -> LossGrad:
        """That of the mean loss; it depends on what the loss of one of the batches depends on."""
        losses, gradients, flags = zip(*parts, strict=True)
        has_grad = tuple(map(any, zip(*flags, strict=True)))
        return LossGrad(sum(losses) / len(parts), sum(gradients) / len(parts), has_grad)


class TrainingLoss:
    """A loss function, the model that it is called with, and how it is differentiated.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, hypers)`` where there are
            hyperparameters of the loss: the mean loss over the batch as a scalar tensor.
        weights: The model's learned weights.
        learned: Names and shapes of the hyperparameters of the loss that are learned, with P
            elements in all.
        takes_hparams: Whether ``loss_fn`` gets the hyperparameters as a third argument.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        weights: FlatWeights,
        learned: Mapping[str, torch.Size] | None = None,
        takes_hparams: bool = False,
    ) -> None:
        check_callable("loss_fn", loss_fn)
        self.model, self.loss_fn, self.weights = model, loss_fn, weights
        self.learned, self._takes_hparams = dict(learned or {}), takes_hparams
        self.used: set[str] = set()
        """The learned hyperparameters that a loss has depended on so far."""
        self._is_first = True
        self.stops_gradients = False
        """Whether the loss was seen to detach something, or to change its gradient by a hook or a
        ``torch.autograd.Function``: its value does not show all that the gradient depends on."""
        self.switched: Callable[[], AbstractContextManager[object]] = nullcontext
        """Replaces operations of torch's while the loss is computed; see ``second_order``."""

    def of(self, loss_fn: LossFn) -> TrainingLoss:
        """Another loss of the same model and hyperparameters, without replaced operations."""
        other = TrainingLoss(self.model, loss_fn, self.weights, self.learned, self._takes_hparams)
        other.used = self.used
        return other

    @property
    def n_learned(self) -> int:
        """P."""
        return sum(shape.numel() for shape in self.learned.values())

    def split(self, of_hparams: Tensor) -> list[Tensor]:
        """Views of the last dimension, of P, in the shapes of the learned hyperparameters."""
        if not self.learned:
            return []
        sizes = [shape.numel() for shape in self.learned.values()]
        parts = torch.split(of_hparams, sizes, -1)
        lead = of_hparams.shape[:-1]
        pairs = zip(parts, self.learned.values(), strict=True)
        return [part.reshape((*lead, *shape)) for part, shape in pairs]

    def __call__(self, batch: Batch, hparams: Values) -> Tensor:
        """The loss.

        Raises:
            ValueError: If it is no scalar.
            TypeError: If the batch holds numpy arrays, or a learned value is where torch takes
                only numbers.
        """
        arguments = (batch, dict(hparams)) if self._takes_hparams else (batch,)
        try:
            loss = self.loss_fn(self.model, *arguments)
        except (TypeError, RuntimeError) as error:
            if advice := self._advice(error, batch):
                summary = str(error).split("\n")[0].rstrip(".")
                raise TypeError(f"loss_fn: {summary}. {advice}") from error
            raise
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"loss_fn must return a scalar, got {got}.")
        return loss.reshape(())

    @contextmanager
    def graph(
        self, batch: Batch, hparams: Values, stops: StopState | None = None
    ) -> Iterator[Tensor]:
        """The loss with its graph, to be differentiated within this context.

        Args:
            batch: The batch.
            hparams: Values of the hyperparameters of the loss.
            stops: Whether gradients stop where the loss stops them, and how this is recorded; None
                where they do, and only the training gradient is taken.

        Raises:
            ValueError: If the loss does not depend on the weights.
        """
        self.weights.check_trainable()
        recording = _UNRECORDED if stops is None else recorded(self.model, stops)
        with torch.enable_grad(), self.switched(), recording as recording_calls:
            with recording_calls:
                loss = self(batch, hparams)
            if stops is not None:
                self.stops_gradients |= stops.found or self._calls_functions(loss)
            if not loss.requires_grad:
                raise ValueError("loss_fn: its result does not depend on the model's weights.")
            yield loss

    def _calls_functions(self, loss: Tensor) -> bool:
        """See ``calls_functions``; of the first loss alone, since it takes a while."""
        is_first, self._is_first = self._is_first, False
        return is_first and calls_functions(loss)

    def gradients(
        self, batch: Batch, hparams: Values, *, twice: bool, stops: StopState | None = None
    ) -> tuple[LossGrad, Gradients, list[Tensor]]:
        """The gradient by parameter, then by learned hyperparameter, and these as leaves.

        Args:
            batch: The batch.
            hparams: Values of the hyperparameters of the loss.
            twice: Whether the gradients can be differentiated again.
            stops: As in ``graph``.
        """
        own = {name: torch.as_tensor(hparams[name]).requires_grad_() for name in self.learned}
        leaves = [*self.weights.parameters, *(own[name] for name in self.learned)]
        with self.graph(batch, hparams, stops) as loss:
            gradients = torch.autograd.grad(loss, leaves, create_graph=twice, allow_unused=True)
        by_weight = gradients[: len(self.weights.parameters)]
        # What is behind a stop has no gradient, but may be used all the same.
        stopped = stops is not None and stops.found
        by_hparam = zip(self.learned, gradients[len(by_weight) :], strict=True)
        self.used.update(name for name, g in by_hparam if stopped or g is not None)
        has_grad = tuple(gradient is not None for gradient in by_weight)
        return LossGrad(loss.detach(), self.weights.join(by_weight), has_grad), gradients, leaves

    def loss_grad(self, batch: Batch, hparams: Values) -> LossGrad:
        """The loss and its gradient by the weights, as the training takes it."""
        return self.gradients(batch, hparams, twice=False)[0]

    def _advice(self, error: Exception, batch: Batch) -> str | None:
        """What to do about one of torch's errors, where the loss itself is not at fault."""
        has_arrays = any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(batch))
        if isinstance(error, TypeError) and has_arrays:
            return (
                "The batch holds numpy arrays: give batches and validation as tensors, made by "
                "torch.from_numpy, or make them in loss_fn."
            )
        if self.learned and any(part in str(error) for part in _WANTS_A_NUMBER):
            return (
                f"Values of hypers that are learned ({', '.join(map(repr, self.learned))}) are "
                "tensors, which torch does not take for every argument: write the formula out, "
                "such as (1 - s) * F.cross_entropy(z, y) - s * F.log_softmax(z, dim=-1).mean() for "
                "label smoothing s, or use optuna_hypergrad.autodiff.relaxations: relaxed_dropout "
                "for a dropout rate, rounded for an integer, chosen for a choice."
            )
        return None


# Parts of what torch says to a tensor where it wants a number.
_WANTS_A_NUMBER = (
    "not Tensor",
    "Tensor, ",  # among the kinds that were got
    "only integer tensors",
    "not differentiable with respect to argument",
    "Can't call numpy() on Tensor",
)


class Validated(NamedTuple):
    """The mean validation loss and its gradient."""

    loss: float
    gradient: Tensor  # by the weights, shape (D,)
    direct: dict[str, Tensor]  # by the learned hyperparameters of the loss itself


def validate(
    loss: TrainingLoss,
    validation: Batch | Iterable[Batch],
    statistics: Statistics,
    hparams: Values,
    of_tensors: bool = False,
    differentiate: bool = True,
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
        differentiate: Whether the gradient is wanted, also where the loss stops gradients; else it
            is 0.

    Raises:
        ValueError: If there is no batch, or the size of one among others is unknown.
    """
    check_choice("statistics", statistics, get_args(Statistics))
    check_validation(validation)
    total, loss_sum, n = 0, 0.0, len(loss.weights.parameters)
    gradient_sum = torch.zeros_like(loss.weights.read())
    direct_sum = [gradient_sum.new_zeros(shape) for shape in loss.learned.values()]
    with validating(loss.model, statistics):
        for batch, size in sized(validation, of_tensors):
            total += size
            if not differentiate:
                with loss.graph(batch, hparams) as value:  # it may differentiate something itself
                    loss_sum += size * float(value.detach())
                continue
            stops = StopState(active=False)
            found, gradients, _ = loss.gradients(batch, hparams, twice=False, stops=stops)
            gradient_sum += size * found.gradient
            for summed, part in zip(direct_sum, gradients[n:], strict=True):
                summed += 0.0 if part is None else size * part
            loss_sum += size * float(found.loss)
    if total == 0:
        raise ValueError("validation: got no examples, expected at least one batch.")
    direct = {name: s / total for name, s in zip(loss.learned, direct_sum, strict=True)}
    return Validated(loss_sum / total, gradient_sum / total, direct)


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
