"""What the functions that draw a study must not be given."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import optuna

from optuna_hypergrad import GradientSampler, PopulationSampler, suggest_array, visualization
from samplers.populations import bowl

NAN, INF = float("nan"), float("inf")
NO_STUDY = {"study": [optuna.create_study(directions=["minimize"] * 2), None, 3, "x", object()]}
OF_SEARCHES = NO_STUDY | {
    "names": ["x", 3, [3], ["other"], {}, object()],
    "chain": [-1, 1, 1.5, "x", True, [0]],
}
OF_POPULATIONS = NO_STUDY | {"names": ["x", 3, [3], ["other"], object()]}


OUTER_STEPS = partial(GradientSampler, strategy="sign_descent")


@cache
def study(sampler: Callable[..., Any]) -> optuna.Study:
    created = optuna.create_study(sampler=sampler(seed=0))
    created.optimize(bowl, n_trials=2)
    return created


@cache
def with_array() -> optuna.Study:
    created = optuna.create_study()
    suggest_array(created.ask(), "x", 0.0, 1.0, 3)
    created.tell(0, 1.0)
    return created


def plot(name: str, sampler: Callable[..., Any] = OUTER_STEPS) -> Callable[..., Any]:
    """A function of ``visualization``, of a study of this sampler."""
    return lambda **more: getattr(visualization, name)(**{"study": study(sampler), **more})


# As the table of all public functions, which holds these.
FIGURES: dict[str, tuple[Callable[..., Any], dict[str, list[Any]]]] = {
    "plot_arrays": (
        lambda **more: visualization.plot_arrays(**{"study": with_array(), **more}),
        NO_STUDY | {"names": ["x", 3, [3], ["other"], object()]},
    ),
    "plot_convergence": (
        plot("plot_convergence"),
        NO_STUDY | {"retrained": [NAN, INF, -INF, "x", {}, object(), [1.0, NAN], [None], ["x"]]},
    ),
    "plot_growth": (plot("plot_growth"), NO_STUDY),
    "plot_hypergradients": (plot("plot_hypergradients"), OF_SEARCHES),
    "plot_hypervariance": (plot("plot_hypervariance"), OF_SEARCHES),
    "plot_schedules": (plot("plot_schedules"), OF_SEARCHES),
    "plot_step_sizes": (plot("plot_step_sizes"), OF_SEARCHES),
    "plot_lineage": (plot("plot_lineage", PopulationSampler), NO_STUDY),
    "plot_mutations": (plot("plot_mutations", PopulationSampler), NO_STUDY),
    "plot_population": (plot("plot_population", PopulationSampler), OF_POPULATIONS),
    "plot_trajectories": (
        plot("plot_trajectories", PopulationSampler),
        NO_STUDY | {"x": [3, "other", []], "y": [3, "other", []], "surface": [3, "x", []]},
    ),
}
