"""What trials store: one writer and one reader for each attribute.

Objectives, samplers and pruners write system attributes, and for people to see, single numbers or
short texts as user attributes.
"""

from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.decisions import trial_seed, wants_hypergradient
from optuna_hypergrad.reports.growth import StoredGrowth, read_growth
from optuna_hypergrad.reports.hypergradients import report_hypergradient
from optuna_hypergrad.reports.objective import (
    read_constraint_gradients,
    read_constraints,
    read_gradient,
)
from optuna_hypergrad.reports.segments import (
    read_checkpoint,
    read_refined,
    read_segment,
    report_refined,
)

__all__ = [
    "StoredDataError",
    "StoredGrowth",
    "read_checkpoint",
    "read_claim",
    "read_constraint_gradients",
    "read_constraints",
    "read_gradient",
    "read_growth",
    "read_refined",
    "read_segment",
    "report_hypergradient",
    "report_refined",
    "trial_seed",
    "wants_hypergradient",
]
