"""Optuna's own sampler suite, for objectives that report nothing."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optuna_hypergrad import GradientSampler

pytestmark = pytest.mark.filterwarnings("ignore:GradientSampler. no trial has reported")


class TestGradientSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: GradientSampler(seed=0)
