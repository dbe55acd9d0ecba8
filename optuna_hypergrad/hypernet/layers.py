"""Layers whose weights respond to the hyperparameters.

An affine layer Wx + b becomes (Wx + b) + s_w(h) ⊙ (W'x) + s_b(h) ⊙ b', where [s_w, s_b] is a
linear map without bias of what the conditioning gives, one scale for each output unit and each
example. Equivalently its weights are W + diag(s_w) W', a low-rank linear model of the best
response, the weights that training would reach with other hyperparameters.

The map starts at nought: a new layer computes what the plain layer computes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.hypernet.conditioning import Conditioning, align


class Response(nn.Module):
    """The responding part of one affine map: s_w(h) ⊙ (W'x) + s_b(h) ⊙ b'.

    Args:
        weight: The plain weight W, whose shape, dtype and device W' takes.
        bias: The plain bias b, or None.
        conditioning: What the map [s_w, s_b] reads.
        units: Number of output units; W' has as many rows unless it is given.
        trailing: Number of dimensions of the output after that of the units.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        conditioning: Conditioning,
        *,
        units: int | None = None,
        trailing: int = 0,
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.trailing = trailing
        bound = weight[0].numel() ** -0.5  # 1/sqrt(fan in)
        self.weight = nn.Parameter(torch.empty_like(weight).uniform_(-bound, bound))
        self.bias = None if bias is None else nn.Parameter(torch.empty_like(bias))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        rows = (units or len(weight)) * (1 if bias is None else 2)
        self.map = nn.Parameter(weight.new_zeros(rows, len(conditioning)))

    def forward(self, product: Tensor) -> Tensor:
        """The response, given the product W'x of shape (batch, …, units, and trailing ones)."""
        scales = F.linear(self.conditioning.offset.to(self.map), self.map)
        if self.bias is None:
            return align(scales, product, self.trailing) * product
        by_weight, by_bias = scales.chunk(2, dim=-1)
        shift = align(by_bias * self.bias, product, self.trailing)
        return align(by_weight, product, self.trailing) * product + shift


class HyperLayer(nn.Module):
    """What the layers have in common: the plain layer's arguments, and a conditioning.

    Args:
        *args: As for the plain layer.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for the plain layer.
    """

    def __init__(self, *args: Any, conditioning: Conditioning, **kwargs: Any) -> None:
        check_kind("conditioning", conditioning, Conditioning, "a Conditioning")
        super().__init__(*args, **kwargs)
        self.condition(conditioning)

    def condition(self, conditioning: Conditioning) -> None:
        """Give the plain layer a new response."""
        raise NotImplementedError


class HyperLinear(HyperLayer, nn.Linear):
    """A ``torch.nn.Linear`` that responds to hyperparameters; examples come first.

    Takes inputs of shape (batch, …, in_features), or (…, in_features) where all examples share
    the hyperparameters.

    Args:
        *args: As for ``torch.nn.Linear``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Linear``.

    Raises:
        ValueError: If ``conditioning`` is not one.

    Reference:
        MacKay et al. 2019 (self-tuning networks).

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> HyperLinear(3, 2, conditioning=holder)(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    def condition(self, conditioning: Conditioning) -> None:
        """Give the plain layer a new response."""
        self.response = Response(self.weight, self.bias, conditioning)

    def forward(self, input: Tensor) -> Tensor:
        """The plain output and the response."""
        response: Tensor = self.response(F.linear(input, self.response.weight))
        return super().forward(input) + response


class HyperConv2d(HyperLayer, nn.Conv2d):
    """A ``torch.nn.Conv2d`` that responds to hyperparameters, one scale a channel.

    Args:
        *args: As for ``torch.nn.Conv2d``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Conv2d``.

    Raises:
        ValueError: If ``conditioning`` is not one.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> HyperConv2d(1, 8, 3, padding=1, conditioning=holder)(torch.ones(4, 1, 6, 6)).shape
        torch.Size([4, 8, 6, 6])
    """

    def condition(self, conditioning: Conditioning) -> None:
        """Give the plain layer a new response."""
        self.response = Response(self.weight, self.bias, conditioning, trailing=2)

    def forward(self, input: Tensor) -> Tensor:
        """The plain output and the response."""
        response: Tensor = self.response(self._conv_forward(input, self.response.weight, None))
        return super().forward(input) + response


class HyperEmbedding(HyperLayer, nn.Embedding):
    """A ``torch.nn.Embedding`` that responds to hyperparameters: E[x] + s(h) ⊙ E'[x].

    Args:
        *args: As for ``torch.nn.Embedding``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Embedding``.

    Raises:
        ValueError: If ``conditioning`` is not one.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> HyperEmbedding(10, 3, conditioning=holder)(torch.tensor([[1, 2], [3, 4]])).shape
        torch.Size([2, 2, 3])
    """

    def condition(self, conditioning: Conditioning) -> None:
        """Give the plain layer a new response."""
        self.response = Response(self.weight, None, conditioning, units=self.embedding_dim)
        if self.padding_idx is not None:
            nn.init.zeros_(self.response.weight[self.padding_idx])

    def forward(self, input: Tensor) -> Tensor:
        """The plain output and the response."""
        product = F.embedding(input, self.response.weight, self.padding_idx)
        response: Tensor = self.response(product)
        return super().forward(input) + response


class HyperLSTMCell(HyperLayer, nn.LSTMCell):
    """A ``torch.nn.LSTMCell`` whose two affine maps each respond to hyperparameters.

    Args:
        *args: As for ``torch.nn.LSTMCell``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.LSTMCell``.

    Raises:
        ValueError: If ``conditioning`` is not one.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> hidden, cell = HyperLSTMCell(3, 2, conditioning=holder)(torch.ones(4, 3))
        >>> hidden.shape, cell.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    def condition(self, conditioning: Conditioning) -> None:
        """Give the plain layer new responses."""
        self.response_ih = Response(self.weight_ih, self.bias_ih, conditioning)
        self.response_hh = Response(self.weight_hh, self.bias_hh, conditioning)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The new hidden and cell state, shape (batch, hidden_size) each."""
        zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
        hidden, cell = (zeros, zeros) if hx is None else hx
        gates = (
            F.linear(input, self.weight_ih, self.bias_ih)
            + self.response_ih(F.linear(input, self.response_ih.weight))
            + F.linear(hidden, self.weight_hh, self.bias_hh)
            + self.response_hh(F.linear(hidden, self.response_hh.weight))
        )
        write, keep, new, read = gates.chunk(4, dim=-1)  # torch's order i, f, g, o
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
        return torch.sigmoid(read) * torch.tanh(cell), cell
