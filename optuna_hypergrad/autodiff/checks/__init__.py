"""Whether a training is what hypergradients take it for, found out on the first batch.

The training gradient must be a function of the weights, the batch, the model's buffers and modes,
and the random number generators; buffers that shape it must not depend on the weights; its
derivative must agree with differences in double precision; and the update must be differentiable.
"""

from optuna_hypergrad.autodiff.checks.derivative import check_loss, check_products, check_update_map
from optuna_hypergrad.autodiff.checks.double import direction_at
from optuna_hypergrad.autodiff.checks.state import check_state, is_named

__all__ = [
    "check_loss",
    "check_products",
    "check_state",
    "check_update_map",
    "direction_at",
    "is_named",
]
