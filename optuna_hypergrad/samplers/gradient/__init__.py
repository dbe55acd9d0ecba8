"""GradientSampler: search by hypergradients, one outer step a trial (FDS)."""

from optuna_hypergrad.samplers.gradient.sampler import GradientSampler

__all__ = ["GradientSampler"]
