"""Optuna samplers, and what the trials that they proposed tell; never import torch."""

from optuna_hypergrad.samplers.gradient.chains import ChainSummary
from optuna_hypergrad.samplers.gradient.history import OuterStep, outer_steps
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
