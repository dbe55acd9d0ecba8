"""GradientSampler: search by hypergradients, one outer step a trial (FDS)."""
