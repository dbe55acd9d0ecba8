"""docs/updates.md: its code runs, and its updates are what they are said to be."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import hypergradient


def check_lion_is_the_published_rule(page: dict[str, Any]) -> None:
    lion = page["Lion"](0.1, 0.8, 0.95, weight_decay=0.3)
    weights, state = torch.ones(6, dtype=torch.float64), ()
    w, m = np.ones(6), np.zeros(6)
    for gradient in torch.randn(20, 6, dtype=torch.float64):
        weights, state = lion(weights, state, gradient, lion.hypers)
        update = np.sign(0.8 * m + 0.2 * gradient.numpy())
        m = 0.95 * m + 0.05 * gradient.numpy()
        w = w - 0.1 * (update + 0.3 * w)
    np.testing.assert_allclose(weights, w, rtol=1e-13)


def check_muon_moves_matrices_by_their_orthogonal_factor(page: dict[str, Any]) -> None:
    for shape in ((7, 3), (3, 7)):
        matrix = torch.randn(shape, dtype=torch.float64)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = u.T @ page["orthogonal"](matrix) @ v.T
        singular = found.diagonal()
        torch.testing.assert_close(found, torch.diag(singular))
        assert ((singular > 0.6) & (singular < 1.3)).all()  # what five iterations promise


def check_hypergradients_of_muon_and_lion_are_central_differences(page: dict[str, Any]) -> None:
    model, epsilon = copy.deepcopy(page["model"]).double(), 1e-6
    batches = [(x.double(), y) for x, y in [*page["batches"], page["validation"]]]
    validation = batches.pop()

    def run(name: str, lr: float) -> Any:
        made = {"lion": page["Lion"], "muon": lambda lr: page["Muon"](page["shapes"], lr)}
        update, fresh = made[name](Schedule("lr", [lr])), copy.deepcopy(model)
        return hypergradient(fresh, page["loss"], update, batches, validation, steps=10)

    for name in ("muon", "lion"):
        up, down = (run(name, 0.01 + e).loss for e in (epsilon, -epsilon))
        expected = (up - down) / (2 * epsilon)
        assert run(name, 0.01).gradient["lr"] == pytest.approx(expected, rel=1e-6)
