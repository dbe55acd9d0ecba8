"""Joint training of weights and hyperparameters in one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad import arguments
from optuna_hypergrad.autodiff.data import Batch, batch_size, sized
from optuna_hypergrad.autodiff.loss import LossFn
from optuna_hypergrad.hypernet.conditioning import Conditioning
from optuna_hypergrad.hypernet.transforms import Positive


class HyperTraining:
    """Training steps at perturbed hyperparameters, and validation steps that move them.

    A training step draws u + σ ⊙ ε, ε ~ N(0, I), for each example and updates the weights, so that
    the layers learn how the best weights respond. A validation step fixes the weights and moves u
    and σ against the gradient of L_val − τ Σ log(σ √(2πe)), which reaches u through the responses
    alone.

    Args:
        student: A converted model.
        loss_fn: ``loss_fn(model, batch)``, the mean loss over a batch as a scalar tensor.
            ``Conditioning.of(model)`` gives the hyperparameters to a loss that reads them.
        optimizer: Any optimizer of the student's parameters.
        validation_loss_fn: The validation loss, if it differs from the training loss.
        lr: Adam's learning rate for u and σ, per step, in unconstrained units.
        scale: Initial σ, in unconstrained units.
        tune_scale: Whether σ is learned; if not, validation is unperturbed.
        entropy_weight: τ, which keeps σ from collapsing.
        train_steps: Number of training steps between validation steps in ``step``.
        validation_steps: Number of validation steps after them.

    Raises:
        ValueError: If the student is not converted or a number is out of range.

    Reference:
        MacKay et al. 2019 (self-tuning networks), with their ratio of 2 : 1.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning, HyperDropout, convert
        >>> model = torch.nn.Sequential(HyperDropout("rate"), torch.nn.Linear(3, 1))
        >>> student = convert(model, Conditioning({"rate": Bounded(0.0, 0.9)}, {"rate": 0.2}))
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> loss_fn = lambda model, batch: model(batch).square().mean()
        >>> training = HyperTraining(student, loss_fn, optimizer)
        >>> for _ in range(10):
        ...     _ = training.step(torch.ones(4, 3), torch.ones(4, 3))
        >>> list(training.values)
        ['rate']
    """

    def __init__(
        self,
        student: nn.Module,
        loss_fn: LossFn,
        optimizer: torch.optim.Optimizer,
        *,
        validation_loss_fn: LossFn | None = None,
        lr: float = 3e-3,
        scale: float = 0.5,
        tune_scale: bool = True,
        entropy_weight: float = 1e-3,
        train_steps: int = 2,
        validation_steps: int = 1,
    ) -> None:
        arguments.check_kind("student", student, nn.Module, "a model from ``convert``")
        arguments.check_kind("optimizer", optimizer, torch.optim.Optimizer, "one of torch's")
        arguments.check_callable("loss_fn", loss_fn)
        if validation_loss_fn is not None:
            arguments.check_callable("validation_loss_fn", validation_loss_fn)
        arguments.check_positive("lr", lr)
        arguments.check_positive("scale", scale)
        arguments.checked_count("train_steps", train_steps)
        arguments.checked_count("validation_steps", validation_steps)
        arguments.checked_number(
            "entropy_weight", entropy_weight, "be at least 0", lambda x: x >= 0
        )
        self.student = student
        self.optimizer = optimizer
        self.tune_scale = tune_scale
        self.entropy_weight = entropy_weight
        self.train_steps, self.validation_steps = train_steps, validation_steps
        self.conditioning = Conditioning.of(student)
        trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        if trained.isdisjoint(id(weight) for weight in student.parameters()):
            message = "optimizer has no parameter of the student; create it after ``convert``."
            raise ValueError(message)
        self._loss_fn, self._validation_loss_fn = loss_fn, validation_loss_fn or loss_fn
        centre = self.conditioning.centre
        self._raw_scale = torch.full_like(centre, Positive().unconstrain(scale))
        self._tuned = {"centre": centre} | ({"scale": self._raw_scale} if tune_scale else {})
        self._adam = torch.optim.Adam(self._tuned.values(), lr=lr)
        self._steps = 0
        self._of_tensors = False  # whether the last training batch was a tensor

    @property
    def values(self) -> dict[str, float]:
        """Hyperparameters by name, in natural units; integers for discrete ones."""
        return self.conditioning.values

    def set_values(self, values: Mapping[str, float]) -> None:
        """Set the given hyperparameters to natural values; see ``Conditioning.set_values``."""
        self.conditioning.set_values(values)

    @property
    def scales(self) -> dict[str, float]:
        """Standard deviations σ of the perturbation by name, in unconstrained units."""
        sigma = F.softplus(self._raw_scale).tolist()
        return dict(zip(self.conditioning.transforms, sigma, strict=True))

    def step(self, train_batch: Batch, validation_batch: Batch) -> Tensor:
        """Take one training step, and the validation steps after every ``train_steps``-th.

        Args:
            train_batch: A batch of training data, examples first.
            validation_batch: A batch of validation data, examples first.

        Returns:
            The training loss, shape ().
        """
        loss = self.train_step(train_batch)
        self._steps += 1
        if self._steps % self.train_steps == 0:
            for _ in range(self.validation_steps):
                self.validation_step(validation_batch)
        return loss

    def train_step(self, batch: Batch) -> Tensor:
        """Take one step of the weights at perturbed hyperparameters.

        Args:
            batch: A batch of training data, examples first.

        Returns:
            The training loss before the step, shape ().
        """
        self._of_tensors = isinstance(batch, Tensor)
        centre = self.conditioning.centre
        with self.conditioning.at(_perturbed(centre, self._raw_scale, batch_size(batch))):
            loss = self._loss_fn(self.student, batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def validation_step(self, batch: Batch) -> Tensor:
        """Take one step of the hyperparameters, and of σ if it is learned.

        Args:
            batch: A batch of validation data, examples first.

        Returns:
            The validation loss before the step, without the entropy, shape ().
        """
        leaves = {name: t.clone().requires_grad_() for name, t in self._tuned.items()}
        point, entropy = leaves["centre"], torch.zeros(())
        if self.tune_scale:
            point = _perturbed(leaves["centre"], leaves["scale"], batch_size(batch))
            sigma = F.softplus(leaves["scale"])
            entropy = (sigma.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()
        loss = self._validation_loss(batch, point)
        regularised = loss - self.entropy_weight * entropy
        gradients = torch.autograd.grad(regularised, list(leaves.values()))
        for tuned, gradient in zip(self._tuned.values(), gradients, strict=True):
            tuned.grad = gradient
        self._adam.step()
        return loss.detach()

    def hypergradient(self, batches: Batch | Iterable[Batch]) -> dict[str, float]:
        """Return the derivative of the mean validation loss through the responses.

        Args:
            batches: One batch, or an iterable of batches, weighted by their numbers of examples.
                If training batches are tensors, a list of tensors is a list of batches.

        Returns:
            Loss per unit of each hyperparameter, at its current value.

        Raises:
            ValueError: If there is no batch, or the size of one of several is unknown.
        """
        centre = self.conditioning.centre.clone().requires_grad_()
        total, gradient = 0, torch.zeros_like(centre)
        for batch, size in sized(batches, self._of_tensors):
            gradient += size * torch.autograd.grad(self._validation_loss(batch, centre), centre)[0]
            total += size
        if total == 0:
            raise ValueError("batches: got no examples, expected at least one batch.")
        dvalue_du = torch.autograd.grad(self.conditioning.natural(centre).sum(), centre)[0]
        natural = (gradient / total / dvalue_du).tolist()
        return dict(zip(self.conditioning.transforms, natural, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hyperparameters, σ and their Adam state as a flat mapping of tensors.

        The weights and their optimizer are not included.
        """
        state = {
            "centre": self.conditioning.centre,
            "scale": self._raw_scale,
            "steps": torch.tensor(self._steps),
        }
        for name, tuned in self._tuned.items():
            for key, value in self._adam.state.get(tuned, {}).items():
                state[f"{name}.{key}"] = value
        return {name: tensor.clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned, on the student's device.

        Raises:
            ValueError: If ``state`` is incomplete or has another number of hyperparameters.
        """
        centre = self.conditioning.centre
        if missing := {"centre", "scale", "steps"} - state.keys():
            raise ValueError(
                f"state must come from HyperTraining.state_dict(), lacks {sorted(missing)}."
            )
        if state["centre"].shape != centre.shape:
            raise ValueError(
                f"state: expected {len(centre)} hyperparameters, got {len(state['centre'])}."
            )
        centre.copy_(state["centre"])
        self._raw_scale.copy_(state["scale"])
        self._steps = int(state["steps"])
        for name, tuned in self._tuned.items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            # Checkpoints are on the CPU, where torch leaves Adam's step count, too.
            self._adam.state[tuned] = {
                key: value.clone() if key == "step" else value.to(tuned, copy=True)
                for key, value in own.items()
            }

    def _validation_loss(self, batch: Batch, point: Tensor) -> Tensor:
        with _evaluating(self.student), self.conditioning.at(point):
            return self._validation_loss_fn(self.student, batch)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _perturbed(centre: Tensor, raw_scale: Tensor, size: int) -> Tensor:
    """Return u + σ ⊙ ε for each example, shape (size, n)."""
    noise = torch.randn(size, len(centre), dtype=centre.dtype, device=centre.device)
    return centre + F.softplus(raw_scale) * noise
