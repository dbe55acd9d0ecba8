"""Hyperparameters found by gradients through training, as an Optuna sampler."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.arguments import renamed

if TYPE_CHECKING:
    from optuna_hypergrad.arrays import suggest_array
    from optuna_hypergrad.batched import optimize_batched
    from optuna_hypergrad.dashboard import PublishCallback, publish
    from optuna_hypergrad.pruners import ConsensusPruner, DivergencePruner, TruncationPruner
    from optuna_hypergrad.reporting import watch
    from optuna_hypergrad.reports.decisions import trial_seed, wants_hypergradient
    from optuna_hypergrad.reports.hypergradients import report_hypergradient
    from optuna_hypergrad.results import best_schedules, lineage_schedules, recommended
    from optuna_hypergrad.samplers import (
        GradientSampler,
        PopulationSampler,
        lineage,
        outer_steps,
        students,
    )
    from optuna_hypergrad.schedules import Schedule, Schedules
    from optuna_hypergrad.suggest import suggest_schedule

__version__ = "0.1.0"

__all__ = [
    "ConsensusPruner",
    "DivergencePruner",
    "GradientSampler",
    "PopulationSampler",
    "PublishCallback",
    "Schedule",
    "Schedules",
    "TruncationPruner",
    "best_schedules",
    "lineage",
    "lineage_schedules",
    "optimize_batched",
    "outer_steps",
    "publish",
    "recommended",
    "report_hypergradient",
    "students",
    "suggest_array",
    "suggest_schedule",
    "trial_seed",
    "wants_hypergradient",
    "watch",
]

_HOMES = {
    "ConsensusPruner": "pruners",
    "DivergencePruner": "pruners",
    "GradientSampler": "samplers",
    "PopulationSampler": "samplers",
    "PublishCallback": "dashboard",
    "Schedule": "schedules",
    "Schedules": "schedules",
    "TruncationPruner": "pruners",
    "best_schedules": "results",
    "lineage": "samplers",
    "lineage_schedules": "results",
    "optimize_batched": "batched",
    "outer_steps": "samplers",
    "publish": "dashboard",
    "recommended": "results",
    "replay": "results",  # the old name of lineage_schedules
    "report_hypergradient": "reports",
    "students": "samplers",
    "suggest_array": "arrays",
    "suggest_schedule": "suggest",
    "trial_seed": "reports",
    "wants_hypergradient": "reports",
    "watch": "reporting",
}

_SUBMODULES = (
    *("autodiff", "distributed", "hypernet", "members"),  # import torch
    *("dashboard", "integrations", "visualization"),  # import what draws, or trains, when used
    *("journal", "pruners", "results", "reports", "samplers", "schedules"),
)


def __getattr__(name: str) -> Any:
    """Import a public name or submodule when it is first asked for (PEP 562)."""
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        return renamed(__name__, name, {"recall": "results"})
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
