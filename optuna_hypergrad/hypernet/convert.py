"""From a plain model to one that responds to its hyperparameters."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from optuna_hypergrad.arguments import check_kind, checked_count
from optuna_hypergrad.hypernet.conditioning import Conditioning
from optuna_hypergrad.hypernet.layers import (
    HyperConv2d,
    HyperEmbedding,
    HyperLayer,
    HyperLinear,
    HyperLSTMCell,
)
from optuna_hypergrad.hypernet.regularisers import Regulariser
from optuna_hypergrad.hypernet.transforms import Unbounded

LAYERS: dict[type[nn.Module], type[HyperLayer]] = {
    nn.Linear: HyperLinear,
    nn.Conv2d: HyperConv2d,
    nn.Embedding: HyperEmbedding,
    nn.LSTMCell: HyperLSTMCell,
}

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, conditioning: Conditioning | int) -> Model:
    """A copy of ``model`` whose layers respond to the hyperparameters.

    Every ``Linear``, ``Conv2d``, ``Embedding`` and ``LSTMCell`` that learns becomes its
    responding counterpart, about twice as many weights, and every regulariser is connected. The
    plain weights keep their values, names and ties; each place where a tied weight is used has
    its own response. Other modules stay as they are, subclasses of the four among them. What the
    model computes at the centre is unchanged.

    Args:
        model: A model on its device; it is left alone.
        conditioning: The hyperparameters; the copy's layers refer to it. An integer n stands for n
            unbounded ones, named "0" to "n − 1", at 0; ``Conditioning.of`` finds them.

    Returns:
        The copy. Create the optimizer of the weights from its parameters.

    Raises:
        ValueError: If no layer of the model can respond; the message names those with weights.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning, HyperDropout, convert
        >>> model = torch.nn.Sequential(HyperDropout("rate"), torch.nn.Linear(3, 2))
        >>> student = convert(model, Conditioning({"rate": Bounded(0.0, 0.9)}, {"rate": 0.2}))
        >>> type(student[1]).__name__
        'HyperLinear'
    """
    check_kind("model", model, nn.Module, "a torch.nn.Module")
    if not isinstance(conditioning, Conditioning):
        names = [str(i) for i in range(checked_count("conditioning", conditioning))]
        conditioning = Conditioning(dict.fromkeys(names, Unbounded()), dict.fromkeys(names, 0.0))
    student = copy.deepcopy(model)
    plain = [module for module in student.modules() if type(module) in LAYERS and _learns(module)]
    if not plain:
        raise ValueError(
            f"model: no layer can respond to hyperparameters; expected one that learns of "
            f"{[kind.__name__ for kind in LAYERS]}, got {_weighted(student)}."
        )
    parameter = next(plain[0].parameters())
    conditioning.centre = conditioning.centre.to(parameter)
    for module in plain:
        # Changing the class in place keeps ties, hooks and names, as torch's parametrize does.
        module.__class__ = LAYERS[type(module)]
    for module in student.modules():
        if isinstance(module, HyperLayer | Regulariser):
            module.condition(conditioning)
    return student


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _weighted(model: nn.Module) -> dict[str, str]:
    """Paths and kinds of the modules that hold weights of their own."""
    return {
        path: type(module).__name__
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
