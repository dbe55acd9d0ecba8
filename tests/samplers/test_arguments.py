"""What the arguments of both samplers must not be, and what the errors say."""

import re
from typing import Any

import optuna
import pytest

from optuna_hypergrad import GradientSampler, PopulationSampler

pytestmark = pytest.mark.usefixtures("sign_descent")

NAN, INF = float("nan"), float("inf")
NO_COUNT = [0, -1, 1.5, True, None, "3", NAN]
NO_CHOICE = ["x", None, 3, [], {}]
NO_NAMES = ["width", [1], {"width": 1}, None, 3]

# By argument: how an error begins, and the values that raise it.
COMMON: dict[str, tuple[str, list[Any]]] = {
    "seed": ("seed must be a non-negative integer or None", [-1, 1.5, "x", True, NAN]),
    "independent_sampler": (
        "independent_sampler must be a sampler or None",
        [3, "tpe", optuna.samplers.RandomSampler],
    ),
    "constraints_func": ("constraints_func must be callable", [3, "x", [1.0]]),
}
GRADIENT = COMMON | {
    "safeguard": ("safeguard must be at least 0, or None", [-0.1, NAN, INF, "x", [1]]),
    "start": ("start must be 'range', 'best' or a mapping", ["middle"]),
    "n_replicates": ("n_replicates must be a positive integer", NO_COUNT),
    "n_chains": ("n_chains must be a positive integer", NO_COUNT),
    "tolerance": (r"tolerance must lie in [0, 1)", [-0.1, 1.0, NAN, "x", None]),
    "stop_when_converged": ("stop_when_converged must be True or False", [1, "x", None]),
}
POPULATION = COMMON | {
    "population_size": ("population_size must be a positive integer", NO_COUNT),
    "truncation": (
        "truncation must be between 0 and 0.5",
        [-0.1, 0.6, NAN, "x", "0.2", None, True],
    ),
    "selection": ("selection must be one of 'truncation', 'tournament'", NO_CHOICE),
    "burn_in": ("burn_in must be an integer of at least 0", [-1, 1.5, 2.5, "x", None]),
    "mutation": ("mutation must be one of 'surrogate', ", ["x", "radiation", 3, []]),
    "activation": ("activation must be one of 'softmax', 'leaky_relu'", NO_CHOICE),
    "resample_probability": (
        "resample_probability must be between 0 and 1",
        [-0.1, 1.1, NAN, "x", None],
    ),
    "refine": ("refine must be one of True, False", ["x", "no", 3, None]),
    "start": ("start must be 'independent' or 'best'", NO_CHOICE),
    "fixed": ("fixed must be a list of names", NO_NAMES),
    "mutable": ("mutable must be a list of names", NO_NAMES),
    "synchronous": ("synchronous must be one of True, False", ["x", 3, None]),
    "timeout": ("timeout must be positive seconds, or None", [0, -1.0, NAN, "x", "3"]),
}


@pytest.mark.parametrize(
    "sampler, argument, value, expected",
    [
        pytest.param(
            sampler, argument, value, expected, id=f"{sampler.__name__}-{argument}-{value!r:.12}"
        )
        for sampler, table in ((GradientSampler, GRADIENT), (PopulationSampler, POPULATION))
        for argument, (expected, values) in table.items()
        for value in values
    ],
)
def test_a_wrong_argument_is_named(sampler: Any, argument: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}.*got {re.escape(repr(value))}"):
        sampler(**{argument: value})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"start": 3}, "start must map names to floats, got 3"),
        ({"start": None}, "start must map names to floats, got None"),
        ({"start": [0.1]}, "start must map names to floats"),
        ({"start": {"x": INF}}, "start: 'x' must be a finite number, got inf"),
        ({"start": {"x": NAN}}, "start: 'x' must be a finite number, got nan"),
        ({"start": {"x": "x"}}, "start: 'x' must be a finite number, got 'x'"),
        ({"start": {"x": None}}, "start: 'x' must be a finite number, got None"),
        ({"step_size": {"x": 0.0}}, "step_size: 'x' must be positive, got 0.0"),
        ({"step_size": {"x": -1.0}}, "step_size: 'x' must be positive, got -1.0"),
        ({"step_size": {"x": NAN}}, "step_size: 'x' must be a finite number, got nan"),
        ({"step_size": {"x": "1"}}, "step_size: 'x' must be a finite number, got '1'"),
        ({"step_size": 0.1}, "step_size must map names to floats"),
        ({"step_size": "x"}, "step_size must map names to floats"),
        ({"step_size": [0.1]}, "step_size must map names to floats"),
    ],
)
def test_values_by_parameter_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientSampler(**arguments)


def test_nothing_is_both_fixed_and_mutable() -> None:
    with pytest.raises(ValueError, match="fixed and mutable must differ, got 'kind' in both"):
        PopulationSampler(fixed=["a", "kind"], mutable={"kind"})
