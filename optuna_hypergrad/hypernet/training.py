"""Hyper-training: weights and hyperparameters learned together, in one training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad.arguments import (
    check_callable,
    check_kind,
    check_positive,
    checked_count,
    checked_number,
)
from optuna_hypergrad.autodiff.data import batch_size, sized
from optuna_hypergrad.autodiff.validation import Batch, LossFn, evaluating
from optuna_hypergrad.hypernet.conditioning import Conditioning
from optuna_hypergrad.hypernet.transforms import Positive


class HyperTraining:
    """Training steps at perturbed hyperparameters, and validation steps that move them.

    A training step draws u + σ ⊙ ε, ε ~ N(0, I), for each example and updates the weights, so
    that the layers learn how the best weights respond. A validation step holds the weights and
    moves u and σ against the gradient of L_val − τ Σ log(σ √(2πe)), which reaches u through the
    response only.

    Args:
        student: A converted model.
        loss_fn: ``loss_fn(model, batch)``, the mean loss over a batch as a scalar tensor. Where
            it reads hyperparameters itself, it finds them by ``Conditioning.of(model)``.
        optimizer: Any optimizer of the student's parameters.
        validation_loss_fn: The validation loss, where it is another than the training loss.
        lr: Adam's learning rate for u and σ, per step, in unconstrained units.
        scale: σ to start from, in unconstrained units.
        tune_scale: Whether σ is learned; otherwise it stays, and validation is unperturbed.
        entropy_weight: τ, which keeps σ from collapsing.
        train_steps: Training steps to each ``validation_steps`` of ``step``.
        validation_steps: Validation steps to each ``train_steps`` of ``step``.

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
        check_kind("student", student, nn.Module, "a model from ``convert``")
        check_kind("optimizer", optimizer, torch.optim.Optimizer, "one of torch's")
        check_callable("loss_fn", loss_fn)
        if validation_loss_fn is not None:
            check_callable("validation_loss_fn", validation_loss_fn)
        check_positive("lr", lr)
        check_positive("scale", scale)
        checked_count("train_steps", train_steps)
        checked_count("validation_steps", validation_steps)
        checked_number("entropy_weight", entropy_weight, "be at least 0", lambda x: x >= 0)
        self.student = student
        self.optimizer = optimizer
        self.tune_scale = tune_scale
        self.entropy_weight = entropy_weight
        self.train_steps, self.validation_steps = train_steps, validation_steps
        self.conditioning = Conditioning.of(student)
        _check_trains(optimizer, student)
        self._loss_fn, self._validation_loss_fn = loss_fn, validation_loss_fn or loss_fn
        centre = self.conditioning.centre
        self._raw_scale = torch.full_like(centre, Positive().unconstrain(scale))
        self._tuned = {"centre": centre} | ({"scale": self._raw_scale} if tune_scale else {})
        self._adam = torch.optim.Adam(self._tuned.values(), lr=lr)
        self._steps = 0
        self._of_tensors = False  # whether each training batch is a tensor, as seen at every step

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters by name, in natural units; whole numbers for discrete ones."""
        return self.conditioning.values

    def set_values(self, values: Mapping[str, float]) -> None:
        """Move hyperparameters to natural values; those not named stay.

        Args:
            values: Natural values by name.

        Raises:
            ValueError: If a name is unknown or a value lies outside of its range.
        """
        self.conditioning.set_values(values)

    @property
    def scales(self) -> dict[str, float]:
        """Standard deviations σ of the perturbation by name, in unconstrained units."""
        sigma = F.softplus(self._raw_scale).tolist()
        return dict(zip(self.conditioning.transforms, sigma, strict=True))

    def step(self, train_batch: Batch, validation_batch: Batch) -> Tensor:
        """One training step; after each ``train_steps`` of them, the validation steps.

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
        """One step of the weights at perturbed hyperparameters.

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
        """One step of the hyperparameters, and of the scales where they are tuned.

        Args:
            batch: A batch of validation data, examples first.

        Returns:
            The validation loss before the step, without the entropy, shape ().
        """
        leaves = {name: t.clone().requires_grad_() for name, t in self._tuned.items()}
        point, entropy = leaves["centre"], torch.zeros(())
        if self.tune_scale:
            point = _perturbed(leaves["centre"], leaves["scale"], batch_size(batch))
            entropy = _entropy(leaves["scale"])
        loss = self._validation_loss(batch, point)
        objective = loss - self.entropy_weight * entropy
        gradients = torch.autograd.grad(objective, list(leaves.values()))
        for tuned, gradient in zip(self._tuned.values(), gradients, strict=True):
            tuned.grad = gradient
        self._adam.step()
        return loss.detach()

    def hypergradient(self, batches: Batch | Iterable[Batch]) -> dict[str, float]:
        """Derivative of the mean validation loss, through the response of frozen weights.

        Args:
            batches: One batch, or an iterable of batches, each of which counts by its number of
                examples. Where the training batches are tensors themselves, a list of tensors is
                a list of batches.

        Returns:
            Loss per unit of each hyperparameter, at its current value.

        Raises:
            ValueError: If there is no batch, or the size of one of several cannot be told.
        """
        centre = self.conditioning.centre.clone().requires_grad_()
        total, gradient = 0, torch.zeros_like(centre)
        for batch, size in sized(batches, self._of_tensors):
            gradient += size * torch.autograd.grad(self._validation_loss(batch, centre), centre)[0]
            total += size
        if total == 0:
            raise ValueError("batches: got no examples, expected at least one batch.")
        slopes = torch.autograd.grad(self.conditioning.natural(centre).sum(), centre)[0]
        natural = (gradient / total / slopes).tolist()
        return dict(zip(self.conditioning.transforms, natural, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Hyperparameters, scales and their Adam state as a flat mapping of tensors.

        The weights and their optimizer have state dicts of their own.
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
        """Go on from what ``state_dict`` returned.

        Args:
            state: Tensors by name.

        Raises:
            ValueError: If the state is one of another number of hyperparameters.
        """
        centre = self.conditioning.centre
        if missing := {"centre", "scale", "steps"} - state.keys():
            raise ValueError(f"state: expected that of a HyperTraining, without {sorted(missing)}.")
        if state["centre"].shape != centre.shape:
            raise ValueError(
                f"state: expected {len(centre)} hyperparameters, got {len(state['centre'])}."
            )
        centre.copy_(state["centre"])
        self._raw_scale.copy_(state["scale"])
        self._steps = int(state["steps"])
        for name, tuned in self._tuned.items():
            prefix = f"{name}."
            self._adam.state[tuned] = {
                key.removeprefix(prefix): tensor.clone()
                for key, tensor in state.items()
                if key.startswith(prefix)
            }

    def _validation_loss(self, batch: Batch, point: Tensor) -> Tensor:
        with evaluating(self.student), self.conditioning.at(point):
            return self._validation_loss_fn(self.student, batch)


def _perturbed(centre: Tensor, raw_scale: Tensor, size: int) -> Tensor:
    """u + σ ⊙ ε for each example, shape (size, n)."""
    noise = torch.randn(size, len(centre), dtype=centre.dtype, device=centre.device)
    return centre + F.softplus(raw_scale) * noise


def _entropy(raw_scale: Tensor) -> Tensor:
    """Entropy of the perturbation: Σ log(σ √(2πe))."""
    return (F.softplus(raw_scale).log() + 0.5 * math.log(2 * math.pi * math.e)).sum()


def _check_trains(optimizer: torch.optim.Optimizer, student: nn.Module) -> None:
    """An optimizer of the model before its conversion would train nothing."""
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not any(id(weight) in trained for weight in student.parameters()):
        raise ValueError("optimizer has no parameter of the student; create it after ``convert``.")
