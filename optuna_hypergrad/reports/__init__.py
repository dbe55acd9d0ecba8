"""What trials store: one writer and one reader for each attribute.

Objectives, samplers and pruners write system attributes, and for people to see, single numbers or
short texts as user attributes.
"""

from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.claims import trial_seed
from optuna_hypergrad.reports.objective import report_hypergradient
from optuna_hypergrad.reports.segments import report_refined

__all__ = ["StoredDataError", "report_hypergradient", "report_refined", "trial_seed"]
