"""What a trial stores, and how it is read back: one writer and one reader for each attribute.

Objectives and samplers write to a trial's system attributes, and what people should see of it, as
plain numbers, to its user attributes. Everything is strict JSON: floats, ints, strings, and lists
and dicts of them.
"""

from optuna_hypergrad.reports.attributes import StoredDataError, check_trial
from optuna_hypergrad.reports.claims import (
    Claim,
    Rule,
    read_claim,
    read_drawn,
    write_claim,
    write_drawn,
)
from optuna_hypergrad.reports.hypergradients import (
    read_constraint_gradients,
    read_constraints,
    read_gradient,
    report_hypergradient,
    total_violation,
    write_constraints,
)
from optuna_hypergrad.reports.pruning import (
    read_superfluous,
    read_tangent_norms,
    report_tangent_norms,
    write_superfluous,
)
from optuna_hypergrad.reports.seeds import trial_seed
from optuna_hypergrad.reports.segments import (
    Checkpoint,
    Segment,
    check_descent,
    has_restored,
    read_checkpoint,
    read_refined,
    read_removed,
    read_restored,
    read_segment,
    report_checkpoint,
    report_refined,
    report_restored,
    write_removed,
    write_segment,
)
from optuna_hypergrad.reports.shapes import Shape, read_shapes, report_shape
from optuna_hypergrad.reports.teachers import Taught, read_teacher, write_teacher

__all__ = [
    "Checkpoint",
    "Claim",
    "Rule",
    "Segment",
    "Shape",
    "StoredDataError",
    "Taught",
    "check_descent",
    "check_trial",
    "has_restored",
    "read_checkpoint",
    "read_claim",
    "read_constraint_gradients",
    "read_constraints",
    "read_drawn",
    "read_gradient",
    "read_refined",
    "read_removed",
    "read_restored",
    "read_segment",
    "read_shapes",
    "read_superfluous",
    "read_tangent_norms",
    "read_teacher",
    "report_checkpoint",
    "report_hypergradient",
    "report_refined",
    "report_restored",
    "report_shape",
    "report_tangent_norms",
    "total_violation",
    "trial_seed",
    "write_claim",
    "write_constraints",
    "write_drawn",
    "write_removed",
    "write_segment",
    "write_superfluous",
    "write_teacher",
]
