"""Compiled graphs, with a compiler that leaves operations as they are: what is in which part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor
import torch.nn.functional as F
from torch import Tensor

from optuna_hypergrad.autodiff import tracing
from optuna_hypergrad.autodiff.tracing import traced


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that were to be compiled."""
    found: list[Any] = []
    monkeypatch.setattr(
        torch._inductor, "compile", lambda part, *others: found.append(part.graph) or part
    )
    tracing._program.cache_clear()
    return found


def dropped(x: Tensor, noise: Tensor) -> list[Tensor]:
    return [F.dropout(x.exp(), 0.5).sum() + torch.rand(3)]


def read_before_it_is_drawn(x: Tensor, noise: Tensor) -> list[Tensor]:
    y = x * noise
    noise[:2].normal_()
    return [y, y + noise]


def drawn_from_what_is_changed(x: Tensor, noise: Tensor) -> list[Tensor]:
    odds = x.sigmoid()
    odds.view(3)[1:].mul_(0.5)
    return [torch.bernoulli(odds), odds.square()]


def without_numbers(x: Tensor, noise: Tensor) -> list[Tensor]:
    return [x.exp() * noise]


@pytest.mark.parametrize(
    ("function", "n_compiled"),
    [
        (dropped, 5),  # all but the two draws, and what one of them fills
        (read_before_it_is_drawn, 1),
        (drawn_from_what_is_changed, 1),
        (without_numbers, 2),
    ],
)
def test_what_draws_comes_first_and_sees_what_it_saw(
    parts: list[Any], function: Callable[..., list[Tensor]], n_compiled: int
) -> None:
    noise, x = torch.ones(3), torch.arange(3.0)
    trace: Any = traced(lambda: (function(x, noise), None), [x], [noise])[0]
    results = []
    for is_compiled in (False, True):
        noise.fill_(2.0)
        if is_compiled:
            trace.compile([x + 1])
            noise.fill_(2.0)
        torch.manual_seed(0)
        results.append([*(one.clone() for one in trace([x + 1])), noise.clone()])
    assert all(map(torch.equal, *results))
    (part,) = parts
    assert sum(node.op.startswith("call") for node in part.nodes) == n_compiled
