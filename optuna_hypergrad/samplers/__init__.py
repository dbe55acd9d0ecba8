"""Optuna samplers, and what the trials that they proposed tell; never import torch."""

from optuna_hypergrad.samplers.chains import ChainSummary
from optuna_hypergrad.samplers.gradient import GradientSampler
from optuna_hypergrad.samplers.history import OuterStep, outer_steps
from optuna_hypergrad.samplers.lineage import Ancestor, lineage, students
from optuna_hypergrad.samplers.mutated import Mutated
from optuna_hypergrad.samplers.population import PopulationSampler

__all__ = [
    "Ancestor",
    "ChainSummary",
    "GradientSampler",
    "Mutated",
    "OuterStep",
    "PopulationSampler",
    "lineage",
    "outer_steps",
    "students",
]
