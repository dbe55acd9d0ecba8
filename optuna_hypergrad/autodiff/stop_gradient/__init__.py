"""Training gradients that are not the gradient of the loss, differentiated as they were taken.

``detach``, ``no_grad``, functions with a backward of their own and hooks make the training gradient
g(w) something else than the gradient of the loss as a function of w: a part of the loss counts as
constant in g, and yet moves with the weights. Hypergradients need the derivative of the map
w ↦ g(w). Within ``StopGradients``, what is stopped in g is recorded as a function of the weights
all the same: first ``torch.autograd.grad`` stops there, then, to differentiate g, it does not.
"""

from optuna_hypergrad.autodiff.stop_gradient.mode import (
    StopGradients,
    calls_functions,
    recorded,
    without_hooks,
)
from optuna_hypergrad.autodiff.stop_gradient.switch import StopState

__all__ = ["StopGradients", "StopState", "calls_functions", "recorded", "without_hooks"]
