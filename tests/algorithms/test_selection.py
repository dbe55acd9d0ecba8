"""Selection on constructed populations."""

import math

import numpy as np
import pytest

from optuna_hypergrad.algorithms import selection

RNG = np.random.default_rng(0)


def chosen(losses: list[float], fraction: float = 0.2) -> list[set[int | None]]:
    """The members that each is replaced by, in many draws."""
    return [
        {selection.truncation(losses, own, fraction, RNG) for _ in range(100)}
        for own in range(len(losses))
    ]


def test_the_worst_fifth_is_replaced_by_the_best_fifth() -> None:
    losses = [0.5, 0.1, 0.9, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 1.0]
    found = chosen(losses)
    assert [found[2], found[9]] == [{1, 3}, {1, 3}]
    assert all(found[own] == {None} for own in range(10) if own not in (2, 9))


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(20, 0.2, 4), (8, 0.2, 2), (3, 0.2, 1), (2, 0.2, 1), (1, 0.5, 0), (5, 0.5, 2), (9, 0.0, 0)],
)
def test_top_and_bottom_never_overlap(n: int, fraction: float, expected: int) -> None:
    assert selection.truncated(n, fraction) == expected


def test_equal_losses_are_ranked_in_their_order() -> None:
    assert chosen([1.0] * 5) == [{None}, {None}, {None}, {None}, {0}]


def test_no_infinite_loss_is_cloned() -> None:
    found = chosen([math.inf, 0.5, math.inf, math.inf], 0.5)
    assert found == [{None}, {None}, {1}, {1}]
    assert chosen([math.inf] * 4, 0.5) == [{None}] * 4


def test_a_tournament_is_lost_only_to_a_better_member() -> None:
    losses = [0.2, 0.1, 0.3]
    found = [{selection.tournament(losses, own, RNG) for _ in range(99)} for own in range(3)]
    assert found == [{1, None}, {None}, {0, 1}]
    assert selection.tournament([0.5], 0, RNG) is None
