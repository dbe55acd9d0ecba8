"""PopulationSampler: hypergradient-guided mutation of a population (HPM)."""
