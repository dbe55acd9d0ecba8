"""The teacher against finite differences, and what it does to points."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms import mutation
from optuna_hypergrad.algorithms.mutation import Activation, Teacher

N = 5
TARGET = np.array([0.1, 0.9, 0.4, 0.6, 0.2])


def teacher(activation: Activation = "softmax", seed: int = 0) -> Teacher:
    rng = np.random.default_rng(seed)
    plain = mutation.identity([[seed, i] for i in range(N)], activation)
    return plain._replace(values=rng.normal(0.0, 0.5, plain.values.shape))


def loss(one: Teacher, point: np.ndarray) -> float:
    """Loss of the mutant hyperparameters, with the student frozen."""
    return float(((mutation.weights(one, point) * point - TARGET) ** 2).sum())


def outer(one: Teacher, point: np.ndarray) -> np.ndarray:
    return 2 * (mutation.weights(one, point) * point - TARGET)


@pytest.mark.parametrize("activation", mutation.ACTIVATIONS)
@pytest.mark.parametrize("part", ["keys", "values"])
def test_the_gradient_is_that_of_finite_differences(activation: Activation, part: str) -> None:
    one, point, h = teacher(activation), np.array([0.5, 0.3, 0.9, 0.05, 0.7]), 1e-6
    ours = getattr(mutation.gradient(one, point, outer(one, point)), part)
    for index in np.ndindex(ours.shape):
        shift = np.zeros(ours.shape)
        shift[index] = h
        above = loss(one._replace(**{part: getattr(one, part) + shift}), point)
        below = loss(one._replace(**{part: getattr(one, part) - shift}), point)
        assert ours[index] == pytest.approx((above - below) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("activation", mutation.ACTIVATIONS)
def test_a_new_teacher_changes_nothing(activation: Activation) -> None:
    point = np.random.default_rng(0).random(N)
    new = mutation.identity([[i] for i in range(N)], activation)
    assert np.array_equal(mutation.mutate(new, point), point)


@pytest.mark.parametrize("activation", mutation.ACTIVATIONS)
def test_learning_brings_the_mutated_point_towards_lower_loss(activation: Activation) -> None:
    one, point = mutation.identity([[i] for i in range(N)], activation), np.full(N, 0.5)
    before = loss(one, point)
    for _ in range(30):
        one = mutation.learn(one, point, outer(one, point))
    pushed = mutation.weights(one, point) - 1
    assert loss(one, point) < before
    assert np.array_equal(np.sign(pushed), np.sign(TARGET - point))


def test_the_unit_of_the_loss_does_not_matter() -> None:
    one, point = teacher(), np.full(N, 0.5)
    for scale in (1e-6, 1e6):
        plain = mutation.learn(one, point, outer(one, point))
        scaled = mutation.learn(one, point, scale * outer(one, point))
        assert np.allclose(plain.values, scaled.values, rtol=1e-12)


def test_a_teacher_without_hypergradients_returns_to_the_identity() -> None:
    one, point = teacher(), np.full(N, 0.5)
    for _ in range(200):
        one = mutation.learn(one, point, np.full(N, np.nan))
    assert np.abs(mutation.weights(one, point) - 1).max() < 1e-8


def test_weights_lie_between_0_and_2_and_points_stay_in_bounds() -> None:
    rng = np.random.default_rng(0)
    for seed in range(1_000):
        one = teacher(seed=seed)._replace(values=rng.normal(0, 30, (N, mutation.SLOTS)))
        point = rng.random(N)
        weights, mutant = mutation.weights(one, point), mutation.mutate(one, point)
        assert (weights >= 0).all() and (weights <= 2).all()
        assert (mutant >= 0).all() and (mutant <= 1).all()


def test_perturbation_multiplies_by_08_or_12_inside_the_bounds() -> None:
    point = np.array([0.0, 0.5, 0.9, 1.0])
    found = {tuple(mutation.perturb(point, np.random.default_rng(s)).round(9)) for s in range(99)}
    assert {p[0] for p in found} == {0.0}
    assert {p[1] for p in found} == {0.4, 0.6}
    assert {p[2] for p in found} == {0.72, 1.0}
    assert len(found) == 8


def test_one_outlier_does_not_silence_the_teacher() -> None:
    one, point = mutation.identity([[i] for i in range(N)]), np.full(N, 0.5)
    outer = np.array([1.0, -1.0, 0.0, 0.0, 0.0])
    for step in range(200):
        if step == 100:
            one = mutation.learn(one, point, np.array([1e12, 0, 0, 0, 0]))
            one = mutation.learn(one, point, np.array([1e200, 0, np.inf, 0, 0]))
        one = mutation.learn(one, point, outer)
    pushed = mutation.weights(one, point) - 1
    assert np.isfinite(one.mean_square)
    assert pushed[0] < -0.05 and pushed[1] > 0.05
