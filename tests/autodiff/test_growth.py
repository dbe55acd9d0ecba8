"""Growth of derivatives, and the damped estimate, beside closed forms and brute force."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, ForwardMode, Hypergradient, hypergradient
from optuna_hypergrad.autodiff.growth import adjoint_weight, tangent_weight

DEFAULTS = [
    inspect.signature(function).parameters["estimate"].default
    for function in (hypergradient, ForwardMode)
]  # before a fixture makes them "exact" for the tests of this folder
GRID = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)


def vectors(seed: int, size: int = 7) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    kept = torch.randn(size, generator=draws, dtype=torch.float64)
    scale = 10.0 ** (4 * torch.rand((), generator=draws, dtype=torch.float64) - 2)
    return kept, scale * torch.randn(size, generator=draws, dtype=torch.float64)


def lengths(kept: Tensor, curved: Tensor) -> Tensor:
    return (kept + GRID[:, None] * curved).norm(dim=1)


def alpha(kept: Tensor, curved: Tensor, steps: int) -> float:
    square, inner, q = (float(product) for product in (kept @ kept, kept @ curved, curved @ curved))
    return adjoint_weight(square, -inner, q, steps)


@pytest.mark.parametrize("seed", range(40))
def test_adjoint_weight_is_the_largest_within_the_bound(seed: int) -> None:
    kept, curved = vectors(seed)
    overshoots = float(kept @ curved) < 0
    bound = kept.norm() * (1.0 if overshoots else 10 ** (1 / 50))
    expected = GRID[lengths(kept, curved) <= bound * (1 + 1e-12)].max()
    assert alpha(kept, curved, 50) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_tangent_weight_is_the_largest_within_the_bound_or_the_shortest(seed: int) -> None:
    kept, curved = vectors(seed)
    bound = kept.norm() * [0.3, 0.9, 1.0, 1.5][seed % 4]
    inside = GRID[lengths(kept, curved) <= bound]
    expected = inside.max() if len(inside) else GRID[lengths(kept, curved).argmin()]
    found = tangent_weight(kept[None], curved[None], bound[None])
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


def test_weights_where_nothing_can_lengthen() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert alpha(one, zero, 10) == 1.0
    assert alpha(zero, one, 10) == 1.0  # a derivative that begins
    assert float(tangent_weight(one[None], zero[None], torch.zeros(1))) == 1.0


class Quadratic(nn.Module):
    """Weights w with the loss Σ curvature · w² / 2."""

    def __init__(self, *curvatures: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(curvatures), dtype=torch.float64))
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)


def loss(model: Quadratic, batch: Tensor) -> Tensor:
    return batch.mean() * (model.curvatures * model.w**2).sum() / 2


ONE = torch.ones(1, dtype=torch.float64)


def trained(model: Quadratic, steps: int, lr: list[float], **options: Any) -> Hypergradient:
    update = options.pop("update", SGD(Schedule("lr", lr)))
    return hypergradient(
        model, loss, update, [ONE], ONE, steps=steps, **{"mode": "reverse", **options}
    )


def test_growth_of_an_overshoot_is_that_of_its_closed_form() -> None:
    # w ← (1 − 0.75 · 4)·w = −2·w at every step, and so does the adjoint.
    result = trained(Quadratic(4.0), 12, [0.75] * 4, estimate="exact")
    growth = result.growth
    assert growth is not None
    np.testing.assert_allclose(growth.per_step, math.log10(2.0))
    np.testing.assert_allclose(growth.to_end, math.log10(2.0) * np.arange(12, 0, -1))
    assert growth.total == pytest.approx(12 * math.log10(2.0))
    assert growth.rate == pytest.approx(math.log10(2.0))
    assert growth.dominated == 6  # 2⁷ ≥ 100 > 2⁶
    assert growth.damped == 0.0
    assert growth.trust == {"lr_0": 0.0, "lr_1": 0.0, "lr_2": 1.0, "lr_3": 1.0}


def test_damped_adjoint_of_an_overshoot_keeps_its_length() -> None:
    steps = 12
    result = trained(Quadratic(4.0), steps, [0.75], estimate="damped")
    # α = 2p/q = 2/3, so a ← −a; with a_T = 4·w_T and w_t = (−2)^t, dL/dlr = Σ a_{t+1} · (−4·w_t).
    a_end = 4.0 * (-2.0) ** steps
    terms = [a_end * (-1.0) ** (steps - t - 1) * -4.0 * (-2.0) ** t for t in range(steps)]
    assert result.gradient["lr"] == pytest.approx(sum(terms))
    growth = result.growth
    assert growth is not None
    np.testing.assert_allclose(growth.damping, 1 / 3)
    np.testing.assert_allclose(growth.per_step, math.log10(2.0))  # what it would have been


def test_negative_curvature_lengthens_the_adjoint_tenfold_at_most() -> None:
    steps = 50
    exact = trained(Quadratic(-1.0), steps, [0.5] * steps, estimate="exact")
    damped = trained(Quadratic(-1.0), steps, [0.5] * steps, estimate="damped")
    assert exact.per_step is not None and damped.per_step is not None
    w = 1.5 ** np.arange(steps)
    adjoint = damped.per_step["lr"] / w  # ∝ the adjoint after each step, as the gradient is −w
    np.testing.assert_allclose(adjoint[0] / adjoint[-1], 10 ** ((steps - 1) / steps))
    assert exact.growth is not None
    assert exact.growth.total == pytest.approx(steps * math.log10(1.5))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_both_estimates_are_the_same_where_training_is_tame(mode: str) -> None:
    rates = [0.1, 0.05, 0.02]
    update = SGD(Schedule("lr", rates), momentum=Schedule("momentum", [0.5]), weight_decay=0.01)
    exact, damped = (
        trained(Quadratic(3.0, 0.5, 0.1), 60, rates, update=update, mode=mode, estimate=estimate)
        for estimate in ("exact", "damped")
    )
    assert damped.gradient == pytest.approx(exact.gradient, rel=1e-12)
    assert damped.growth is not None and damped.growth.damped == 0.0
    assert damped.growth.trust == dict.fromkeys(["lr_0", "lr_1", "lr_2", "momentum"], 1.0)


def test_damping_leaves_what_does_not_overshoot() -> None:
    # The second weight is tame, and hardly shortened by the damping of the first.
    rates, steps = [0.7], 30
    exact = trained(Quadratic(0.05), steps, rates, estimate="exact")
    both = trained(Quadratic(3.0, 0.05), steps, rates, estimate="exact")
    damped = trained(Quadratic(3.0, 0.05), steps, rates, estimate="damped")
    assert abs(both.gradient["lr"]) > 10 * abs(exact.gradient["lr"])
    assert damped.growth is not None and 0.0 < damped.growth.damped < 0.5


def waves(model: Quadratic, batch: Tensor) -> Tensor:
    """A loss whose gradient descent is chaotic, but stays bounded, for large learning rates."""
    return batch.mean() * (1 - (model.curvatures * model.w).cos()).sum()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_damped_hypergradients_of_chaotic_training_are_bounded(mode: str) -> None:
    steps = 150
    found = {
        estimate: hypergradient(
            Quadratic(2.2, 2.5, 2.9),
            waves,
            SGD(Schedule("lr", [1.0] * 3)),
            [ONE],
            ONE,
            steps=steps,
            mode=mode,  # type: ignore[arg-type]
            estimate=estimate,  # type: ignore[arg-type]
        )
        for estimate in ("exact", "damped")
    }
    assert abs(found["exact"].gradient["lr_0"]) > 1e15
    # Each step adds the adjoint times the gradient; a young tangent grows freely for five steps,
    # by 1 − 2.9² at most, and then quadratically.
    most = steps if mode == "reverse" else steps**3 * (2.9**2 - 1) ** 5
    assert max(map(abs, found["damped"].gradient.values())) < 3 * 2.9**2 * most
    for result in found.values():
        assert result.growth is not None
        assert (result.growth.damped > 0.1) == (result is found["damped"])
    growth = found["exact"].growth
    assert growth is not None and growth.total > 15
    assert growth.trust["lr_0"] == growth.trust["lr_1"] == 0.0 < growth.trust["lr_2"]


def test_growth_of_tangents_is_beyond_linear_growth() -> None:
    # A flat loss: tangents grow linearly, by the same gradient at each step.
    def flat(model: Quadratic, batch: Tensor) -> Tensor:
        return batch.mean() * model.w.sum()

    tame = hypergradient(
        Quadratic(1.0), flat, SGD(Schedule("lr", [0.1])), [ONE], ONE, steps=40, mode="forward"
    )
    assert tame.growth is not None
    np.testing.assert_allclose(tame.growth.per_step, 0.0, atol=1e-12)
    wild = trained(Quadratic(4.0), 40, [0.75], mode="forward", estimate="exact")
    assert wild.growth is not None
    # dw/dlr = t · (−2)^(t−1) · (−4): 39 doublings beyond linear growth, after the first step.
    assert wild.growth.total == pytest.approx(39 * math.log10(2.0))


def test_clipped_products_of_reverse_mode() -> None:
    steps, lr, bound = 8, 0.3, 1.0
    result = trained(Quadratic(2.0), steps, [lr], clip_products=bound, estimate="exact")
    w = (1 - 2 * lr) ** np.arange(steps + 1)
    adjoint, expected = 2.0 * w[-1], 0.0
    for step in reversed(range(steps)):
        expected += adjoint * -2.0 * w[step]
        adjoint += float(np.clip(2.0 * -lr * adjoint, -bound, bound))
    assert result.gradient["lr"] == pytest.approx(expected)
    tight = trained(Quadratic(2.0), steps, [lr], clip_products=1e-6, estimate="exact")
    assert tight.clipped == 1.0


def test_the_default_is_damped() -> None:
    assert DEFAULTS == ["damped", "damped"]


def test_a_diverged_run_has_no_growth() -> None:
    result = trained(Quadratic(1e200), 3, [1e200], estimate="damped")
    assert result.growth is None and math.isnan(result.gradient["lr"])


def test_plain_training_has_no_growth() -> None:
    assert trained(Quadratic(1.0), 3, [0.1], learn=(), mode="auto").growth is None


@pytest.mark.parametrize("call", [trained, None])
def test_a_wrong_estimate(call: Any) -> None:
    with pytest.raises(ValueError, match="estimate must be one of"):
        if call is None:
            ForwardMode(Quadratic(1.0), loss, SGD(0.1), steps=1, estimate="robust")  # type: ignore[arg-type]
        else:
            trained(Quadratic(1.0), 1, [0.1], estimate="robust")
