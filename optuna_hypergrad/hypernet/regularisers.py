"""Regularisers with a learned strength, one per example.

They act in training mode only. Strengths are natural values and detached: the gradient of the
validation loss reaches a hyperparameter through the responses of the layers alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_name
from optuna_hypergrad.hypernet.conditioning import Conditioning, align


class Regulariser(nn.Module):
    """Base of the regularisers: reads its strength from a conditioning, by name.

    Args:
        name: Name of the hyperparameter; ``convert`` connects it.
    """

    highest = math.inf  # upper limit of the strength; the lower limit is 0

    def __init__(self, name: str) -> None:
        check_name("name", name)
        super().__init__()
        self.name = name
        self.conditioning: Conditioning | None = None

    def condition(self, conditioning: Conditioning) -> None:
        """Connect it to the hyperparameter.

        Raises:
            ValueError: If the hyperparameter is unknown or its range exceeds the regulariser's.
        """
        transform = conditioning.transforms.get(self.name)
        if transform is None or transform.low < 0 or transform.high > self.highest:
            raise ValueError(
                f"{self}: expected a hyperparameter {self.name!r} between 0 and {self.highest}, "
                f"got {transform} in {list(conditioning.transforms)}."
            )
        self.conditioning = conditioning

    def strength(self, x: Tensor) -> Tensor:
        """Return natural values, shape (1,), or (batch, 1, …) with as many dimensions as ``x``."""
        if self.conditioning is None:
            raise ValueError(
                f"{self} is not connected to hyperparameters; convert the model first."
            )
        return align(self.conditioning[self.name].to(x)[..., None], x)

    def extra_repr(self) -> str:
        """Return the name."""
        return repr(self.name)


class HyperDropout(Regulariser):
    """Dropout at a learned rate: x ⊙ mask / (1 − rate).

    Args:
        name: Name of the hyperparameter, the rate, which must lie between 0 and 1.
        channelwise: Drop whole channels of inputs of shape (batch, channels, …), as
            ``torch.nn.Dropout2d`` does.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning, convert
        >>> holder = Conditioning({"rate": Bounded(0.0, 0.9)}, {"rate": 0.5})
        >>> model = torch.nn.Sequential(HyperDropout("rate"), torch.nn.Linear(8, 2))
        >>> student = convert(model, holder)
        >>> student[0](torch.ones(2, 8)).unique()
        tensor([0., 2.])
    """

    highest = 1.0

    def __init__(self, name: str, *, channelwise: bool = False) -> None:
        super().__init__(name)
        self.channelwise = channelwise

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout in training mode."""
        if not self.training:
            return x
        rate = self.strength(x)
        shape = (*x.shape[:2], *[1] * (x.dim() - 2)) if self.channelwise else x.shape
        mask = torch.rand(shape, dtype=x.dtype, device=x.device) >= rate
        # At a rate of 1 the mask is all zero, and 0 / 0 must be 0.
        return x * mask / (1 - rate).clamp_min(torch.finfo(x.dtype).tiny)


class HyperNoise(Regulariser):
    """Gaussian noise with a learned standard deviation: x + σ·ε, ε ~ N(0, I).

    Args:
        name: Name of the hyperparameter, the standard deviation in units of x.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Conditioning, Positive, convert
        >>> holder = Conditioning({"noise": Positive()}, {"noise": 0.1})
        >>> model = torch.nn.Sequential(HyperNoise("noise"), torch.nn.Linear(3, 2))
        >>> student = convert(model, holder)
        >>> student(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Add noise in training mode."""
        return x + self.strength(x) * torch.randn_like(x) if self.training else x
