"""Forward mode for a training loop of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from optuna_hypergrad.autodiff.forward import TangentPropagation, check_without_tensors
from optuna_hypergrad.autodiff.growth import Estimate
from optuna_hypergrad.autodiff.initial import Initial
from optuna_hypergrad.autodiff.loss import LossFn
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.hvp import Products
from optuna_hypergrad.autodiff.tangents import TangentSchedule, Truncation
from optuna_hypergrad.autodiff.updates import Hparam, State, Update


class ForwardMode(TangentPropagation):
    """Training steps that propagate the derivatives of the weights, for your own training loop.

    ``hypergradient`` is this loop ready-made. The model is trained in place; its mode is not
    changed, so call ``model.train()`` if needed.

    Args:
        model: The model, with its initial weights.
        loss_fn: The mean training loss as a scalar tensor; see ``hypergradient``.
        update: The inner update, its hyperparameters numbers or schedules.
        steps: Number of steps of the run (the horizon), which places the windows.
        hypers: Hyperparameters of the loss; see ``hypergradient``.
        initial: New values for some of the initial weights; see ``hypergradient``.
        learn: Names of the trial parameters to differentiate; None or True for all parameters of
            all schedules, ``()`` or False for plain training.
        average: Divide each hypergradient by the number of steps that its parameter shapes (the
            mean over a window instead of the sum, as in the paper). Signs do not change.
        truncate: Fraction of each window's steps, in [0, 1), at which its tangents stand still;
            cheaper and biased. The paper uses at most 0.15.
        truncation: ``"leading"``: the first steps of each window; ``"alternate"``: evenly spread.
        clip_products: Largest absolute value of an entry of a Hessian product (the paper: 10), or
            None.
        estimate: ``"damped"`` or ``"exact"``; see ``hypergradient``. Where the update has momentum,
            which delays what a product does to the weights, tangents are damped less than the
            adjoint of reverse mode.
        clip_gradients: Largest absolute value of an entry of the training gradient, or None. This
            changes the training itself; the hypergradients are those of the changed training.
        constant_buffers: Buffers that are taken as constants; see ``hypergradient``.
        products: How Hessian products are taken; the result is the same to rounding. By double
            backward passes, ``"loop"``: one tangent after another, or ``"batched"``: all at once,
            faster for small matrices; ``"forward"`` and ``"forward-batched"``: by forward mode over
            the gradient; ``"auto"``: double backward passes, batched for small matrices.
        state: State of the update to continue from; see ``hypergradient``.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Reference:
        Forward-mode differentiation with shared hyperparameters: FDS, Section 3.2 and Algorithm 1.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD, ForwardMode
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        >>> run = ForwardMode(model, loss, SGD(Schedule("lr", [0.5])), steps=2)
        >>> x = torch.ones(1, 1)
        >>> losses = [float(run.step(x)) for _ in range(2)]
        >>> losses                                  # w halves at every step: w = (1 − lr)²
        [0.5, 0.125]
        >>> run.hypergradient(x).gradient           # w · dw/dlr = 0.25 · (−1)
        {'lr': -0.25}
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        update: Update,
        *,
        steps: int,
        hypers: Mapping[str, Hparam] | None = None,
        initial: Initial | None = None,
        learn: Collection[str] | bool | None = None,
        average: bool = False,
        truncate: float = 0.0,
        truncation: Truncation = "leading",
        clip_products: float | None = None,
        estimate: Estimate = "damped",
        clip_gradients: float | None = None,
        constant_buffers: Collection[str] = (),
        products: Products = "auto",
        state: State | None = None,
    ) -> None:
        run = Run(
            model,
            loss_fn,
            update,
            steps=steps,
            hypers=hypers,
            initial=initial,
            learn=learn,
            clip_gradients=clip_gradients,
            products=products,
            constant_buffers=constant_buffers,
            state=state,
        )
        check_without_tensors(run.hypers)
        tangents = TangentSchedule(run.hypers, truncate, truncation)
        run.expect(tangents.max_rows)
        super().__init__(
            run, tangents, average=average, clip_products=clip_products, estimate=estimate
        )
