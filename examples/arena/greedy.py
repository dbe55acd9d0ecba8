"""Greedy hypergradients: of the validation loss after each step, by the values at that step alone.

Their horizon is one step: what a learning rate does to later steps is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from training import (
    Batch,
    Data,
    Trained,
    Training,
    evaluate,
    seeded,
    unchanged_buffers,
    update_of,
)

from optuna_hypergrad import Schedule


class OneStep:
    """A training by steps, each of which gives the slopes by the values that it took.

    Args:
        training: What to train.
        data: Its data.
        seed: The seed.
        size: Number of validation examples that a slope takes, others at every step; None for all.
    """

    def __init__(self, training: Training, data: Data, seed: int, size: int | None = None) -> None:
        self.model, self._batches = seeded(training, data, seed)
        self._training, self._validation = training, data.validation
        self._update, self._weights = update_of(training, self.model), list(self.model.parameters())
        every = {**self._update.hypers, **training.hypers}
        self.schedules = {n: value for n, value in every.items() if isinstance(value, Schedule)}
        self._constants = {n: value for n, value in every.items() if n not in self.schedules}
        self._state: tuple[Tensor, ...] = ()
        self._draws, self._size = torch.Generator().manual_seed(seed), size

    def step(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Take a step; the derivative of the validation loss after it by each value."""
        dtype = self._weights[0].dtype
        learned = {
            name: torch.tensor(value, dtype=dtype, requires_grad=True)
            for name, value in values.items()
        }
        every = {**self._constants, **learned}
        batch, training = self._batches(step), self._training
        of_loss = {name: every[name] for name in training.hypers}
        g = self._slope(lambda: training.loss(self.model, batch, of_loss), bool(of_loss))
        own = {name: every[name] for name in self._update.hypers}
        w = parameters_to_vector(self._weights).detach()
        w, after = self._update(w, self._state, g, own)
        vector_to_parameters(w.detach(), self._weights)
        self._state = tuple(part.detach() for part in after)
        held_out = self._held_out()
        with unchanged_buffers(self.model):
            v = self._slope(lambda: training.evaluation(self.model, held_out, {}), False)
        slopes = torch.autograd.grad(w, learned.values(), v, allow_unused=True)
        found = (0.0 if slope is None else float(slope) for slope in slopes)
        return dict(zip(learned, found, strict=True))

    def _slope(self, loss: Callable[[], Tensor], create_graph: bool) -> Tensor:
        found = torch.autograd.grad(loss(), self._weights, create_graph=create_graph)
        return torch.cat([part.flatten() for part in found])

    def _held_out(self) -> Batch:
        if self._size is None:
            return self._validation
        chosen = torch.randint(len(self._validation[0]), (self._size,), generator=self._draws)
        return tuple(part[chosen] for part in self._validation)


def train_greedily(
    training: Training, data: Data, seed: int, *, size: int | None = None
) -> Trained:
    """Train from scratch, with the sum over steps of one-step hypergradients."""
    one_step = OneStep(training, data, seed, size)
    gradient: Counter[str] = Counter()
    for step in range(training.steps):
        at = {n: schedule.at(step, training.steps) for n, schedule in one_step.schedules.items()}
        for name, slope in one_step.step(step, at).items():
            schedule = one_step.schedules[name]
            by_value = schedule.gradient(step, training.steps) * slope
            gradient.update(dict(zip(schedule.names, by_value.tolist(), strict=True)))
    model = one_step.model
    return Trained(model, evaluate(training, model, data.validation)[0], dict(gradient))
