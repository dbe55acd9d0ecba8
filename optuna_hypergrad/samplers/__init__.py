"""Optuna samplers; never import torch."""

from optuna_hypergrad.samplers.gradient import GradientSampler
from optuna_hypergrad.samplers.lineage import Ancestor, lineage
from optuna_hypergrad.samplers.population import PopulationSampler
from optuna_hypergrad.samplers.table import ChainSummary

__all__ = ["Ancestor", "ChainSummary", "GradientSampler", "PopulationSampler", "lineage"]
