"""PopulationSampler: hypergradient-guided mutation of a population (HPM)."""

from optuna_hypergrad.samplers.population.sampler import PopulationSampler

__all__ = ["PopulationSampler"]
