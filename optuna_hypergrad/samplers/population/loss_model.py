"""What the model of losses by hyperparameters is fitted to: the latest generations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from optuna_hypergrad.algorithms import quadratic
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.samplers.population.hyperparameters import Numeric
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial
from optuna_hypergrad.samplers.studies import ranked

GENERATIONS = 10  # of which losses count at most: what is best changes while members train
ENOUGH = 200  # segments, after which no older generation counts


def lowest_point(
    population: Population, generation: int, size: int, numeric: Numeric
) -> Array | None:
    """Where the model is lowest that is fitted to the generations before ``generation``.

    Losses fall while members train, so they count by their rank within a generation. None where
    no segment has all of the parameters, or all losses are equal.

    Args:
        population: All segments.
        generation: That of the clone.
        size: The number of members.
        numeric: The parameters of the model, of which the point has the fractions.
    """
    points: list[Array] = []
    losses: list[float] = []
    for before in range(generation - 1, max(generation - 1 - GENERATIONS, -1), -1):
        peers = [*_with_all(numeric.names, population.of_generation(before, size))]
        if not peers:
            continue
        ranks = ranked([one.rank_key for one in peers])
        worst = 1 + max((rank for rank in ranks if math.isfinite(rank)), default=0.0)
        scaled = np.minimum(ranks, worst) / worst
        points += [*np.atleast_2d(numeric.fractions(*(one.ended_with for one in peers)))]
        losses += (scaled - scaled.mean()).tolist()
        if len(points) >= ENOUGH:
            break
    if not numeric.names or not any(losses):
        return None
    return quadratic.minimum(np.array(points), np.array(losses))


def _with_all(names: tuple[str, ...], found: Iterable[SegmentTrial]) -> Iterator[SegmentTrial]:
    for one in found:
        ended = one.ended_with
        if ended.keys() >= {*names} and all(math.isfinite(ended[name]) for name in names):
            yield one
