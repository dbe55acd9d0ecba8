"""Coordinates of a Gaussian process: levels and shapes of groups, and codes of choices."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms.coordinates import (
    CHOICE_LENGTH,
    MAX_DIMENSION,
    Coordinates,
    one_hot,
)

MIXED = Coordinates((3, 1, 5), (2, 4))


def test_the_transform_of_numbers_is_orthonormal() -> None:
    basis = MIXED.basis[: MIXED.n_numeric, : MIXED.n_numeric]
    np.testing.assert_allclose(basis @ basis.T, np.eye(MIXED.n_numeric), atol=1e-12)
    assert not MIXED.basis[: MIXED.n_numeric, MIXED.n_numeric :].any()


def test_points_come_back_from_their_coordinates() -> None:
    u = np.random.default_rng(0).random((6, MIXED.dimension))
    back = MIXED.of(u) @ np.linalg.inv(MIXED.basis)
    np.testing.assert_allclose(back, u, atol=1e-12)


def test_slopes_along_coordinates_give_the_same_change() -> None:
    rng = np.random.default_rng(0)
    only_numbers = Coordinates((3, 1, 5))
    move, slopes = rng.normal(size=(2, 1, only_numbers.dimension))
    change = only_numbers.of(move) @ only_numbers.slopes_of(slopes).T
    assert change.item() == pytest.approx((move @ slopes.T).item())


def test_the_first_coordinate_of_a_group_is_its_level() -> None:
    flat, bent = Coordinates((4,)).of(np.array([[0.3] * 4, [0.0, 0.2, 0.4, 0.6]]))
    np.testing.assert_allclose(flat, [0.3 * 2, 0, 0, 0], atol=1e-12)
    assert bent[0] == pytest.approx(flat[0]) and abs(bent[1]) > 0.4


def test_two_choices_have_the_distance_1() -> None:
    coordinates = Coordinates((), (3,))
    first, second = coordinates.of(np.array([one_hot([0], (3,)), one_hot([2], (3,))]))
    assert np.linalg.norm(first - second) == pytest.approx(1.0)


def test_a_component_that_depends_on_an_unknown_slope_is_unknown() -> None:
    slopes = np.array([[1.0, np.nan, 2.0, 3.0]])
    found = Coordinates((2, 2)).slopes_of(slopes)[0]
    assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all()


def test_levels_shapes_and_choices_have_length_scales_of_their_own() -> None:
    assert MIXED.kinds == (0, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5, 6, 6, 6, 6)
    assert len(MIXED.lengths) == len(MIXED.length_spreads) == 7
    assert MIXED.lengths[0] == pytest.approx(np.sqrt(3) * MIXED.lengths[2])
    assert (MIXED.lengths[-2:] == CHOICE_LENGTH).all()


@pytest.mark.parametrize("groups", [(200,), (40, 40), (3, 500, 1), (10, 10, 100)])
def test_large_groups_keep_their_coarse_shapes_alone(groups: tuple[int, ...]) -> None:
    coordinates = Coordinates(groups)
    n = coordinates.basis.shape[1]
    assert MAX_DIMENSION // 2 - len(groups) < n <= MAX_DIMENSION
    assert len(coordinates.kinds) == n and max(coordinates.kinds) < len(coordinates.lengths)
    np.testing.assert_allclose(coordinates.basis.T @ coordinates.basis, np.eye(n), atol=1e-12)


def test_small_groups_are_kept_whole_beside_large_ones() -> None:
    coordinates = Coordinates((3, 500, 1))
    assert np.abs(coordinates.basis[:3, :3]).sum(axis=0).all()
    assert coordinates.basis.shape == (504, 3 + 30 + 1)
    assert coordinates.basis[-1, -1] == pytest.approx(1.0)


def test_spread_points_stay_in_the_cube_and_share_their_level() -> None:
    level, shape = np.array([[0.2, 0.9]]), np.zeros((1, 2, 3))
    coordinates = Coordinates((3, 2))
    np.testing.assert_allclose(coordinates.spread(level, shape)[0], [0.2] * 3 + [0.9] * 2)
    wild = coordinates.spread(level, shape + 10.0)
    assert ((wild >= 0) & (wild <= 1)).all()
    assert Coordinates((), (2,)).spread(np.empty((4, 0)), np.empty((4, 0, 3))).shape == (4, 0)


def test_good_points_are_expected_near_the_middle_and_smooth_or_along_slopes() -> None:
    slopes = np.zeros((1, 80))
    slopes[0, ::2], slopes[0, 1::2] = 1.0, -1.0
    means, precisions = Coordinates((80, 1), (2,), slopes).prior
    n_waves = 30  # half of the room of the large group
    assert means[0] == pytest.approx(0.5 * 80**0.5) and means[n_waves + 1] == 0.5
    deviations = 1 / np.sqrt(precisions[: n_waves + 1] * 80)
    expected = [0.35, 0.25, 0.125, 0.25 / 3, *[0.0625] * (n_waves - 4), 0.25]
    np.testing.assert_allclose(deviations, expected)
    assert precisions[n_waves + 1] == pytest.approx(1 / 0.35**2)
    assert not precisions[n_waves + 2 :].any()
