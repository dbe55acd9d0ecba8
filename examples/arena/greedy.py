"""Greedy hypergradients: of the validation loss after each step, by the values at that step alone.

Their horizon is one step: what a learning rate does to later steps is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from training import Batch, Data, Trained, Training, evaluate, seeded, update_of

from optuna_hypergrad import Schedule


def train_greedily(training: Training, data: Data, seed: int) -> Trained:
    """Train from scratch, with the sum over steps of one-step hypergradients."""
    model, batches = seeded(training, data, seed)
    update, weights = update_of(training, model), list(model.parameters())
    state: tuple[Tensor, ...] = ()
    gradient: Counter[str] = Counter()

    def slope(loss: Callable[[], Tensor], *, create_graph: bool) -> Tensor:
        found = torch.autograd.grad(loss(), weights, create_graph=create_graph)
        return torch.cat([part.flatten() for part in found])

    for step in range(training.steps):
        schedules = {**update.hypers, **training.hypers}
        values = {
            name: torch.tensor(value.at(step, training.steps), requires_grad=True)
            if isinstance(value, Schedule)
            else value
            for name, value in schedules.items()
        }
        batch: Batch = batches(step)
        of_loss = {name: values[name] for name in training.hypers}
        g = slope(lambda: training.loss(model, batch, of_loss), create_graph=bool(of_loss))  # noqa: B023
        own = {name: values[name] for name in update.hypers}
        w, after = update(parameters_to_vector(weights).detach(), state, g, own)
        vector_to_parameters(w.detach(), weights)
        state = tuple(part.detach() for part in after)
        v = slope(lambda: training.evaluation(model, data.validation, {}), create_graph=False)
        learned = {n: t for n, t in values.items() if isinstance(t, Tensor)}
        slopes = torch.autograd.grad(w, learned.values(), v, allow_unused=True)
        for name, found in zip(learned, slopes, strict=True):
            schedule = schedules[name]
            by_value = schedule.gradient(step, training.steps) * float(
                0 if found is None else found
            )
            gradient.update(dict(zip(schedule.names, by_value.tolist(), strict=True)))
    return Trained(model, evaluate(training, model, data.validation)[0], dict(gradient))
