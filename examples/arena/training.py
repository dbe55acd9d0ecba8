"""One training as a trial describes it: by a plain loop, or by the engine with hypergradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Hypergradient, ParameterGroups, hypergradient
from optuna_hypergrad.autodiff.updates import Update

Batch = tuple[Tensor, ...]
Batches = Callable[[int, int, int], Callable[[int], Batch]]  # seed, steps, size
Hypers = Mapping[str, Any]  # values of the loss's hyperparameters
Hparam = Schedule | float
LossFn = Callable[[nn.Module, Batch, Hypers], Tensor]
AfterStep = Callable[[int, nn.Module], None]
EPS = 1e-6  # of AdamW
PART = 1_000  # examples evaluated at once in eval mode


@dataclass(frozen=True, eq=False)
class Data:
    """Training batches, and one batch each for validation and test."""

    batches: Batches
    validation: Batch
    test: Batch

    @property
    def device(self) -> torch.device:
        """Where training takes place."""
        return self.validation[0].device

    def to(self, device: str) -> Data:
        """The same data on a device; batches are drawn on the CPU, so they stay the same."""

        def moved(batch: Batch) -> Batch:
            return tuple(part.to(device) for part in batch)

        def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
            draw = self.batches(seed, steps, size)
            return lambda step: moved(draw(step))

        return Data(batches, moved(self.validation), moved(self.test))


def data_of(train: Batch, validation: Batch, test: Batch) -> Data:
    """Data whose training batches are random examples, different at every step."""

    def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
        draws = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(train[0]), (steps, size), generator=draws)
        return lambda step: tuple(part[chosen[step]] for part in train)

    return Data(batches, validation, test)


def classified(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy, of every token if the model predicts tokens."""
    del hypers
    logits = model(batch[0])
    return F.cross_entropy(logits.flatten(0, -2), batch[1].flatten())


def squared(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Mean squared error."""
    del hypers
    return F.mse_loss(model(batch[0]), batch[1])


def gaussian_dropout(x: Tensor, rate: Tensor | float) -> Tensor:
    """Noise with the mean and variance of dropout; it has a derivative by rates above 0."""
    rate = torch.as_tensor(rate)
    return x * (1 + (rate / (1 - rate)).sqrt() * torch.randn_like(x))


@dataclass(frozen=True)
class Training:
    """A network, its optimizer and its loss, with the hyperparameters of a trial.

    Args:
        model: The network of a seed.
        optimizer: ``"sgd"`` or ``"adamw"``.
        options: Of the optimizer: ``lr`` and ``weight_decay``, with SGD ``momentum``, with AdamW
            ``beta1`` and ``beta2``.
        loss: The training loss.
        hypers: Hyperparameters of the loss: schedules, and arrays, which stay the same.
        groups: Parameter groups: ``"params"``, which says of a parameter's name and the parameter
            whether it is in the group, and options of the group.
        evaluation: The loss on held-out data.
        steps: Number of steps.
        size: Number of examples in a batch.
    """

    model: Callable[[int], nn.Module]
    optimizer: Literal["sgd", "adamw"]
    options: Mapping[str, Hparam]
    loss: LossFn = classified
    hypers: Mapping[str, Schedule | NDArray[np.float32]] = field(default_factory=dict)
    groups: Sequence[Mapping[str, Any]] = ()
    evaluation: LossFn = classified
    steps: int = 200
    size: int = 32


@dataclass(frozen=True)
class Trained:
    """A trained network and its validation loss; hypergradients if they were wanted."""

    model: nn.Module
    loss: float
    hypergradient: Hypergradient | dict[str, float] | None = None


def train(
    training: Training, data: Data, seed: int, *, after_step: AfterStep | None = None
) -> Trained:
    """Train from scratch by a loop as users write it: this is what a plain training costs.

    The seed draws initial weights, batches and noise; ``after_step`` is called with the number of
    steps done and the network.
    """
    model, batches = seeded(training, data, seed)
    optimizer, schedules = _optimizer(training, model)
    values = [_by_step(of_group, training.steps) for of_group in schedules]
    of_loss = training.hypers.items()
    hypers = _by_step({n: h for n, h in of_loss if isinstance(h, Schedule)}, training.steps)
    arrays = {n: torch.as_tensor(h) for n, h in of_loss if not isinstance(h, Schedule)}
    for step in range(training.steps):
        for group, of_group in zip(optimizer.param_groups, values, strict=True):
            group.update(_torch_names(of_group[step]))
        optimizer.zero_grad()
        training.loss(model, batches(step), {**hypers[step], **arrays}).backward()
        optimizer.step()
        if after_step is not None:
            after_step(step + 1, model)
    return Trained(model, evaluate(training, model, data.validation)[0])


def train_with_hypergradients(training: Training, data: Data, seed: int, **options: Any) -> Trained:
    """Train from scratch by the engine; the options are those of ``hypergradient``."""
    model, batches = seeded(training, data, seed)
    result = differentiated(training, model, batches, data, **options)
    return Trained(model, result.loss, result)


def seeded(training: Training, data: Data, seed: int) -> tuple[nn.Module, Callable[[int], Batch]]:
    """The untrained network and the batches of a seed, from which torch then draws, too."""
    model = training.model(seed).to(data.device)
    torch.manual_seed(seed)
    return model, data.batches(seed, training.steps, training.size)


def update_of(training: Training, model: nn.Module) -> Update:
    """The optimizer as an update of the engine."""
    options = dict(training.options)
    if training.optimizer == "sgd":
        update: Update = SGD(**options)
    else:
        betas = (options["beta1"], options["beta2"])
        update = AdamW(options["lr"], betas, EPS, options["weight_decay"])
    return ParameterGroups(update, model, training.groups) if training.groups else update


def evaluate(
    training: Training, model: nn.Module, batch: Batch, *, in_eval_mode: bool = False
) -> tuple[float, float | None]:
    """Loss on held-out data, and accuracy if classes are predicted.

    In eval mode batch norm takes its running statistics, else those of the whole batch.
    """
    parts = list(zip(*(whole.split(PART) for whole in batch), strict=True))
    total, right = 0.0, 0
    model.train(not in_eval_mode)
    with torch.no_grad(), unchanged_buffers(model):
        for part in parts if in_eval_mode else [batch]:
            total += float(training.evaluation(model, part, {})) * len(part[0])
            if training.evaluation is not squared:
                right += int((model(part[0]).argmax(-1) == part[1]).sum())
    model.train()
    accuracy = None if training.evaluation is squared else right / batch[1].numel()
    return total / len(batch[0]), accuracy


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Around what would else change the running statistics of batch norm."""
    kept = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)


def differentiated(
    training: Training,
    model: nn.Module,
    batches: Callable[[int], Batch],
    data: Data,
    *,
    learn: bool = True,
    **options: Any,
) -> Hypergradient:
    """Train a network by the engine; further options are those of ``hypergradient``."""
    loss, evaluation, with_hypers = training.loss, training.evaluation, bool(training.hypers)
    on_batch: Callable[..., Tensor] = loss if with_hypers else lambda m, batch: loss(m, batch, {})
    return hypergradient(
        model,
        on_batch,
        update_of(training, model),
        batches,
        data.validation,
        steps=training.steps,
        hypers=training.hypers or None,
        validation_loss_fn=lambda m, batch, *_: evaluation(m, batch, {}),
        learn=learn,
        **options,
    )


def _optimizer(
    training: Training, model: nn.Module
) -> tuple[torch.optim.Optimizer, list[dict[str, Hparam]]]:
    """torch's optimizer, and the schedules of each of its groups."""
    rest = dict(model.named_parameters())
    groups, schedules = [], []
    for group in training.groups:
        options = dict(group)
        belongs = options.pop("params")
        own = [name for name, parameter in rest.items() if belongs(name, parameter)]
        groups.append([rest.pop(name) for name in own])
        schedules.append({**training.options, **options})
    if rest:
        groups.append(list(rest.values()))
        schedules.append(dict(training.options))
    params = [{"params": group} for group in groups]
    if training.optimizer == "sgd":
        return torch.optim.SGD(params, lr=0.0), schedules
    return torch.optim.AdamW(params, lr=0.0, eps=EPS), schedules


def _by_step(schedules: Mapping[str, Hparam], steps: int) -> list[dict[str, float]]:
    """Values by name, for each step."""
    over = [
        one.over(steps).tolist() if isinstance(one, Schedule) else [one] * steps
        for one in schedules.values()
    ]
    if not over:
        return [{} for _ in range(steps)]
    return [dict(zip(schedules, values, strict=True)) for values in zip(*over, strict=True)]


def _torch_names(values: dict[str, float]) -> dict[str, Any]:
    if "beta1" not in values:
        return values
    rest = {name: value for name, value in values.items() if name not in ("beta1", "beta2")}
    return {**rest, "betas": (values["beta1"], values["beta2"])}
