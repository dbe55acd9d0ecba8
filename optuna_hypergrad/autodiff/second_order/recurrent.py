"""LSTMs whose second derivative takes a few operations for each element of the sequence.

A layer is z = x + h₋·Wᵀ, (i, f, o) = σ(z), g = tanh(z), c = f·c₋ + i·g, h = o·tanh(c), from one
element to the next (h₋, c₋ are those before); x holds the input's part of z. Its backward pass B
gives the gradient of φ = ⟨ȳ, y⟩ + ⟨c̄, c⟩ by (x, h₀, c₀, W), where y are all h. The Hessian of φ is
symmetric, so the derivative of ⟨v, B⟩ is that of φ's gradient along v: the JVP of the layer along
v, which is the derivative by (ȳ, c̄), and the tangents of the backward pass along v.

Torch's own second derivative takes 170 operations for each element, four of each kind, since it
treats the gates one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from optuna_hypergrad.autodiff.second_order.operators import applied, eligible


class _Layer(NamedTuple):
    """What a forward pass leaves, for all elements: tensors of shape (T, B, H)."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    c: Tensor
    tanh_c: Tensor
    h: Tensor

    @staticmethod
    def of(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> _Layer:
        """The pass, from x of shape (T, B, 4H)."""
        n, wt = h.shape[1], weight.t()
        found: list[tuple[Tensor, ...]] = []
        for part in x.unbind(0):
            z = torch.addmm(part, h, wt)
            i, f, _, o = torch.split(z.sigmoid(), n, 1)
            g = z[:, 2 * n : 3 * n].tanh()
            c = torch.addcmul(f * c, i, g)
            tanh_c = c.tanh()
            h = o * tanh_c
            found.append((i, f, g, o, c, tanh_c, h))
        return _Layer(*map(torch.stack, zip(*found, strict=True)))


def _before(first: Tensor, following: Tensor) -> Tensor:
    """Values before each element, from those after it."""
    return torch.cat([first[None], following[:-1]])


def _after(values: Tensor) -> Tensor:
    """Values at the next element, 0 after the last."""
    return torch.cat([values[1:], torch.zeros_like(values[:1])])


def _backwards(*sequences: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The elements of several sequences, from the last to the first."""
    return zip(*(one.unbind(0)[::-1] for one in sequences), strict=True)


def _of_gates(dc: Tensor, dh: Tensor) -> Tensor:
    """What the derivatives of all gates are multiplied by: o acts on h, the others on c."""
    return torch.cat([dc, dc, dc, dh], -1)


class _Derivatives(NamedTuple):
    """Derivatives at all elements, by z those of c, and that of h by the gate o, (T, B, 4H)."""

    by_z: Tensor
    c_to_h: Tensor  # (T, B, H)

    @staticmethod
    def of(s: _Layer, c_before: Tensor) -> _Derivatives:
        by_z = (
            s.g * s.i * (1 - s.i),
            c_before * s.f * (1 - s.f),
            s.i * (1 - s.g.square()),
            s.tanh_c * s.o * (1 - s.o),
        )
        return _Derivatives(torch.cat(by_z, -1), s.o * (1 - s.tanh_c.square()))


class _LSTM(Function):
    """x, h₀, c₀, W → y, c."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer = _Layer.of(x, h0, c0, weight)
        ctx.save_for_backward(x, h0, c0, weight, *layer)
        return layer.h.clone(), layer.c[-1].clone()

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor, c_bar: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = applied(_Backward, y_bar, c_bar, *ctx.saved_tensors)
        return found[:4]


class _Backward(Function):
    """ȳ, c̄, x, h₀, c₀, W → the gradient of φ by the last four."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
        found = _Backward.value(*given)
        ctx.save_for_backward(*given, *found[4:])
        return found[:4]

    @staticmethod
    def value(
        y_bar: Tensor,
        c_bar: Tensor,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight: Tensor,
        *of_layer: Tensor,
    ) -> tuple[Tensor, ...]:
        """The gradient; then ∂φ/∂h and ∂φ/∂c, (T, B, H), and the layer's derivatives."""
        s = _Layer(*of_layer)
        derivatives = _Derivatives.of(s, _before(c0, s.c))
        dh, dc, found = torch.zeros_like(h0), c_bar, []
        for y, by_z, c_to_h, f in _backwards(y_bar, *derivatives, s.f):
            dh = y + dh
            dc = torch.addcmul(dc, dh, c_to_h)
            dz = _of_gates(dc, dh) * by_z
            found.append((dz, dh, dc))
            dh, dc = dz @ weight, dc * f  # before the element
        dz, all_dh, all_dc = (torch.stack(one[::-1]) for one in zip(*found, strict=True))
        by_weight = dz.flatten(0, 1).t() @ _before(h0, s.h).flatten(0, 1)
        return dz, dh, dc, by_weight, all_dh, all_dc, *derivatives

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor | None, ...]:
        y_bar, c_bar, *inputs = ctx.saved_tensors[:6]
        rest = [None] * 7
        if torch.is_grad_enabled():  # to be differentiated a third time
            return (*_differentiable(y_bar, c_bar, inputs, v), *rest)
        layer, (dh, dc, *derivatives) = _Layer(*ctx.saved_tensors[6:13]), ctx.saved_tensors[13:]
        return (*_second(inputs, layer, dh, dc, _Derivatives(*derivatives), v), *rest)


def _second(
    inputs: Sequence[Tensor],
    s: _Layer,
    dh: Tensor,
    dc: Tensor,
    derivatives: _Derivatives,
    v: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """The derivative of ⟨v, B⟩ by ȳ, c̄, x, h₀, c₀ and W.

    Args:
        inputs: x, h₀, c₀, W.
        s: The layer.
        dh: ∂φ/∂h at each element, (T, B, H).
        dc: ∂φ/∂c at each element.
        derivatives: Those of the layer.
        v: The direction, like the inputs.
    """
    (_, h0, c0, weight), (u, vh, vc, vw) = inputs, v
    n, wt, c_before, h_before = weight.shape[1], weight.t(), _before(c0, s.c), _before(h0, s.h)

    # The JVP of the layer along v.
    fixed = u + h_before @ vw.t()
    h, c, found = vh, vc, []
    for part, by_z, c_to_h, f in zip(*map(torch.unbind, (fixed, *derivatives, s.f)), strict=True):
        z = torch.addmm(part, h, wt)
        of_i, of_f, of_g, of_o = torch.split(z * by_z, n, 1)
        c = torch.addcmul(of_i + of_f + of_g, f, c)
        h = torch.addcmul(of_o, c_to_h, c)
        found.append((z, c, h))
    z, all_c, all_h = (torch.stack(one) for one in zip(*found, strict=True))

    # Tangents of all that the backward pass multiplies by.
    di, df, do = (one * (1 - one) for one in (s.i, s.f, s.o))  # derivatives of σ
    dg, dtanh = 1 - s.g.square(), 1 - s.tanh_c.square()
    zi, zf, zg, zo = torch.split(z, n, -1)
    i, f, g, o, tanh_c = zi * di, zf * df, zg * dg, zo * do, all_c * dtanh
    by_z = (
        g * di + s.g * (1 - 2 * s.i) * i,
        _before(vc, all_c) * df + c_before * (1 - 2 * s.f) * f,
        i * dg - 2 * s.i * s.g * g,
        tanh_c * do + s.tanh_c * (1 - 2 * s.o) * o,
    )
    c_to_h = o * dtanh - 2 * s.o * s.tanh_c * tanh_c

    # The tangents of the backward pass along v; those known beforehand are added as they are.
    factors = _of_gates(dc, dh)
    dz, z_known = factors * derivatives.by_z, factors * torch.cat(by_z, -1)
    h_known, c_known = _after(dz) @ vw, dh * c_to_h + _after(dc * f)
    new_dh, new_dc, found_dz = torch.zeros_like(vh), torch.zeros_like(vc), []
    for of_h, of_c, of_z, to_c, to_h, to_before in _backwards(
        h_known, c_known, z_known, *derivatives, s.f
    ):
        new_dh = of_h + new_dh
        new_dc = torch.addcmul(new_dc + of_c, new_dh, to_h)
        new_dz = torch.addcmul(of_z, _of_gates(new_dc, new_dh), to_c)
        found_dz.append(new_dz)
        new_dh, new_dc = new_dz @ weight, new_dc * to_before
    by_x = torch.stack(found_dz[::-1])
    by_weight = by_x.flatten(0, 1).t() @ h_before.flatten(0, 1)
    by_weight = by_weight + dz.flatten(0, 1).t() @ _before(vh, all_h).flatten(0, 1)
    return all_h, all_c[-1], by_x, new_dh + dz[0] @ vw, new_dc + dc[0] * f[0], by_weight


def _differentiable(
    y_bar: Tensor, c_bar: Tensor, inputs: Sequence[Tensor], v: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The same by autograd; by views, since some of these may depend on others."""
    y_bar, c_bar, *own = wanted = [
        one.view_as(one) if one.requires_grad else one.detach().requires_grad_()
        for one in (y_bar, c_bar, *inputs)
    ]
    layer = _Layer.of(*own)
    outputs = [layer.h, layer.c[-1]]
    gradient = torch.autograd.grad(outputs, own, [y_bar, c_bar], create_graph=True)
    return torch.autograd.grad(gradient, wanted, list(v), create_graph=True)


def lstm(
    input: Tensor,
    hx: Sequence[Tensor] | Tensor,
    params: Sequence[Tensor],
    has_biases: bool | Sequence[Tensor],
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """``torch.lstm``, equal to rounding; None where the call is none for this function.

    That is: packed sequences, projections, or tensors that are not ``eligible``.
    """
    if batch_first is None or not isinstance(has_biases, bool) or isinstance(hx, Tensor):
        return None  # the arguments of a packed sequence
    h0, c0 = hx
    n_tensors, n_directions = 4 if has_biases else 2, 2 if bidirectional else 1
    is_projected = len(params) != n_tensors * n_directions * num_layers
    if is_projected or not eligible(input, h0, c0, *params):
        return None
    x = input.transpose(0, 1) if batch_first else input
    ends: list[tuple[Tensor, Tensor]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(n_directions):
            place = len(ends)
            own = params[n_tensors * place : n_tensors * (place + 1)]
            read = x.flip(0) if direction else x
            y, h, c = _layer(read, h0[place], c0[place], *own)
            outputs.append(y.flip(0) if direction else y)
            ends.append((h, c))
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        if dropout and train and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    h, c = (torch.stack(one) for one in zip(*ends, strict=True))
    return x.transpose(0, 1) if batch_first else x, h, c


def _layer(
    x: Tensor, h0: Tensor, c0: Tensor, w_x: Tensor, w_h: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction: all h, the last h and the last c."""
    bias = biases[0] + biases[1] if biases else None
    y, c = _LSTM.apply(F.linear(x, w_x, bias), h0, c0, w_h)
    return y, y[-1], c
