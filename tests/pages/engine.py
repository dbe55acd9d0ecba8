"""docs/engine.md: its code runs, and shows what the text says."""

from typing import Any

import pytest
import torch

from optuna_hypergrad.autodiff import SGD, hypergradient


def check_less_memory_runs_steps_again(page: dict[str, Any]) -> None:
    small = page["small"]
    assert small.kept_bytes <= 60_000 and small.recomputed > 0
    assert small.per_step["lr"].shape == (60,)
    assert small.per_step["lr"][20:40].sum() == pytest.approx(small.gradient["lr_1"], rel=1e-4)


def check_every_hyperparameter_has_a_hypergradient(page: dict[str, Any]) -> None:
    assert set(page["result"].gradient) == {"lr", "smoothing_0", "smoothing_1", "l2"}
    assert all(page["result"].gradient.values()) and page["started"].gradient["scale"]


def check_every_example_has_a_hypergradient(page: dict[str, Any]) -> None:
    slopes = page["cleaned"].tensors["weights"]
    assert slopes.shape == (256,) and bool(slopes.ne(0).all())
    better = hypergradient(
        page["new_model"](),
        page["by_example"],
        SGD(0.3),
        lambda step: (*page["batches"](step), torch.arange(step % 8, 256, 8)),
        page["validation"],
        steps=60,
        hypers={"weights": 1 - 0.1 * slopes / slopes.abs().max()},
        validation_loss_fn=lambda model, batch, hypers: page["loss"](model, batch),
        learn=False,
    )
    assert better.loss < page["cleaned"].loss


def check_the_better_activation_is_found(page: dict[str, Any]) -> None:
    # Whether a product is positive is |x₀ + x₁| against |x₀ − x₁|.
    gradient = page["choice"].gradient
    assert gradient["abs"] < 0 < gradient["tanh"]


def test_two_segments_are_one_training_of_torch(page: dict[str, Any]) -> None:
    expected = page["new_model"]()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-2, eps=1e-4)
    for step in range(60):
        optimizer.zero_grad()
        page["loss"](expected, page["batches"](step)).backward()
        optimizer.step()
    for found, parameter in zip(page["model"].parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, parameter, rtol=1e-3, atol=1e-5)
    assert page["first"].gradient["lr"] != page["second"].gradient["lr"]
