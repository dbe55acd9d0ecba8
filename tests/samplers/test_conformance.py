"""Optuna's own sampler suite, for objectives that report nothing."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optuna_hypergrad import GradientSampler, PopulationSampler

pytestmark = pytest.mark.filterwarnings("ignore:GradientSampler. no trial has reported")


class TestGradientSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=["gaussian_process", "sign_descent"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: GradientSampler(seed=0, strategy=request.param)


class TestPopulationSampler(
    BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
):
    @pytest.fixture(
        params=[
            {},
            {"population_size": 2, "burn_in": 0, "truncation": 0.5},
            {"population_size": 2, "selection": "tournament", "mutation": "perturb"},
            {"population_size": 1, "synchronous": True, "start": "best"},
        ],
        ids=str,
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: PopulationSampler(seed=0, **request.param)
