"""Optuna samplers, and the steps and segments of their studies; never imports torch."""

from typing import Any

from optuna_hypergrad.arguments import renamed
from optuna_hypergrad.samplers.gradient.history import ChainSummary, OuterStep, outer_steps
from optuna_hypergrad.samplers.gradient.sampler import GradientSampler
from optuna_hypergrad.samplers.population.lineage import (
    MutationRecord,
    SegmentRecord,
    lineage,
    students,
)
from optuna_hypergrad.samplers.population.sampler import PopulationSampler

__all__ = [
    "ChainSummary",
    "GradientSampler",
    "MutationRecord",
    "OuterStep",
    "PopulationSampler",
    "SegmentRecord",
    "lineage",
    "outer_steps",
    "students",
]


def __getattr__(name: str) -> Any:
    return renamed(__name__, name, {"Ancestor": "SegmentRecord", "Mutated": "MutationRecord"})
