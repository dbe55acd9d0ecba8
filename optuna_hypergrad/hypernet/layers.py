"""Layers whose weights respond to the hyperparameters, and the conversion of a plain model.

An affine layer Wx + b becomes (Wx + b) + s_w(h) ⊙ (W'x) + s_b(h) ⊙ b', where [s_w, s_b] is a
linear map without bias of the conditioning's offset, one scale per output unit and example. Its
weights are W + diag(s_w) W', a low-rank linear model of the best response: the weights that
training would reach with other hyperparameters.

The map starts at zero, so a new layer computes what the plain layer computes.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind, checked_count
from optuna_hypergrad.hypernet.conditioning import Conditioning, align
from optuna_hypergrad.hypernet.regularisers import Regulariser
from optuna_hypergrad.hypernet.transforms import Unbounded

Model = TypeVar("Model", bound=nn.Module)


class Response(nn.Module):
    """The response of one affine map: s_w(h) ⊙ (W'x) + s_b(h) ⊙ b'.

    W' and b' have the shape, dtype and device of W and b. The output has ``units`` units (by
    default the rows of W), and ``trailing`` dimensions after them.
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
        """Return the response for the product W'x, shape (batch, …, units, and trailing ones)."""
        scales = F.linear(self.conditioning.offset.to(self.map), self.map)
        if self.bias is None:
            return align(scales, product, self.trailing) * product
        by_weight, by_bias = scales.chunk(2, dim=-1)
        shift = align(by_bias * self.bias, product, self.trailing)
        return align(by_weight, product, self.trailing) * product + shift


class HyperLayer(nn.Module):
    """Base of the layers: takes the plain layer's arguments and a conditioning."""

    def __init__(self, *args: Any, conditioning: Conditioning, **kwargs: Any) -> None:
        check_kind("conditioning", conditioning, Conditioning, "a Conditioning")
        super().__init__(*args, **kwargs)
        self.condition(conditioning)

    def condition(self, conditioning: Conditioning) -> None:
        """Add a response to the plain layer."""
        raise NotImplementedError


class HyperLinear(HyperLayer, nn.Linear):
    """A ``torch.nn.Linear`` that responds to hyperparameters.

    Inputs have the shape (batch, …, in_features), or (…, in_features) if all examples share the
    hyperparameters.

    Args:
        *args: As for ``torch.nn.Linear``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Linear``.

    Raises:
        ValueError: If ``conditioning`` is not a ``Conditioning``.

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
        self.response = Response(self.weight, self.bias, conditioning)

    def forward(self, input: Tensor) -> Tensor:
        """Return the plain output plus the response."""
        response: Tensor = self.response(F.linear(input, self.response.weight))
        return super().forward(input) + response


class HyperConv2d(HyperLayer, nn.Conv2d):
    """A ``torch.nn.Conv2d`` that responds to hyperparameters, with one scale per channel.

    Args:
        *args: As for ``torch.nn.Conv2d``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Conv2d``.

    Raises:
        ValueError: If ``conditioning`` is not a ``Conditioning``.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> HyperConv2d(1, 8, 3, padding=1, conditioning=holder)(torch.ones(4, 1, 6, 6)).shape
        torch.Size([4, 8, 6, 6])
    """

    def condition(self, conditioning: Conditioning) -> None:
        self.response = Response(self.weight, self.bias, conditioning, trailing=2)

    def forward(self, input: Tensor) -> Tensor:
        """Return the plain output plus the response."""
        response: Tensor = self.response(self._conv_forward(input, self.response.weight, None))
        return super().forward(input) + response


class HyperEmbedding(HyperLayer, nn.Embedding):
    """A ``torch.nn.Embedding`` that responds to hyperparameters: E[x] + s(h) ⊙ E'[x].

    Args:
        *args: As for ``torch.nn.Embedding``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.Embedding``.

    Raises:
        ValueError: If ``conditioning`` is not a ``Conditioning``.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> HyperEmbedding(10, 3, conditioning=holder)(torch.tensor([[1, 2], [3, 4]])).shape
        torch.Size([2, 2, 3])
    """

    def condition(self, conditioning: Conditioning) -> None:
        self.response = Response(self.weight, None, conditioning, units=self.embedding_dim)
        if self.padding_idx is not None:
            nn.init.zeros_(self.response.weight[self.padding_idx])

    def forward(self, input: Tensor) -> Tensor:
        """Return the plain output plus the response."""
        product = F.embedding(input, self.response.weight, self.padding_idx)
        response: Tensor = self.response(product)
        return super().forward(input) + response


class HyperLSTMCell(HyperLayer, nn.LSTMCell):
    """A ``torch.nn.LSTMCell`` whose two affine maps respond to hyperparameters.

    Args:
        *args: As for ``torch.nn.LSTMCell``.
        conditioning: The hyperparameters that the layer responds to.
        **kwargs: As for ``torch.nn.LSTMCell``.

    Raises:
        ValueError: If ``conditioning`` is not a ``Conditioning``.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.hypernet import Bounded, Conditioning
        >>> holder = Conditioning({"rate": Bounded(0.0, 1.0)}, {"rate": 0.5})
        >>> hidden, cell = HyperLSTMCell(3, 2, conditioning=holder)(torch.ones(4, 3))
        >>> hidden.shape, cell.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    def condition(self, conditioning: Conditioning) -> None:
        self.response_ih = Response(self.weight_ih, self.bias_ih, conditioning)
        self.response_hh = Response(self.weight_hh, self.bias_hh, conditioning)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the new hidden and cell state, shape (batch, hidden_size) each."""
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


LAYERS: dict[type[nn.Module], type[HyperLayer]] = {
    nn.Linear: HyperLinear,
    nn.Conv2d: HyperConv2d,
    nn.Embedding: HyperEmbedding,
    nn.LSTMCell: HyperLSTMCell,
}


def convert(model: Model, conditioning: Conditioning | int) -> Model:
    """Copy a model and make the layers of the copy respond to the hyperparameters.

    Every learned ``Linear``, ``Conv2d``, ``Embedding`` and ``LSTMCell`` becomes its responding
    counterpart, with about twice as many weights, and every regulariser is connected. The plain
    weights keep their values, names and ties; each use of a tied weight has its own response.
    Other modules stay as they are, including subclasses of the four. The output at the centre does
    not change.

    Args:
        model: A model on its device; it is not changed.
        conditioning: The hyperparameters. An integer n means n unbounded ones, named "0" to
            "n − 1", at 0; ``Conditioning.of`` returns them.

    Returns:
        The copy. Create the optimizer of the weights from its parameters.

    Raises:
        ValueError: If no layer of the model can respond; the message lists those with weights.

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
    plain = [
        module
        for module in student.modules()
        if type(module) in LAYERS and any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    if not plain:
        weighted = {
            path: type(module).__name__
            for path, module in student.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        raise ValueError(
            "model: no layer can respond to hyperparameters; expected a learned layer of "
            f"{[kind.__name__ for kind in LAYERS]}, got {weighted}."
        )
    conditioning.centre = conditioning.centre.to(next(plain[0].parameters()))
    for module in plain:
        # Changing the class in place keeps ties, hooks and names, as torch's parametrize does.
        module.__class__ = LAYERS[type(module)]
    for module in student.modules():
        if isinstance(module, HyperLayer | Regulariser):
            module.condition(conditioning)
    return student
