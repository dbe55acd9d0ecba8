"""README.md: its objectives learn."""

from typing import Any

import pytest


def check_the_objectives_learn(page: dict[str, Any]) -> None:
    study, population = page["study"], page["population"]
    assert len(study.trials) == 30
    assert study.trials[0].value == pytest.approx(0.69, abs=0.05)  # chance, from all zeros
    assert study.best_value < 0.3
    assert population.best_value < 0.3
