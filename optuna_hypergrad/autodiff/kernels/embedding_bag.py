"""Sums and means of bags of embeddings by single embeddings; torch's have no second derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from optuna_hypergrad.autodiff.kernels.eligible import eligible


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """``torch.nn.functional.embedding_bag`` in the modes ``"sum"`` and ``"mean"``.

    Args:
        input: Indices, shape (bags, size), or (indices,) with ``offsets``.
        weight: Embeddings, shape (words, features).
        offsets: Where each bag begins in ``input``, shape (bags,).
        max_norm: As torch's; such a call is left to torch.
        norm_type: Of ``max_norm``.
        scale_grad_by_freq: As torch's; such a call is left to torch.
        mode: ``"sum"`` or ``"mean"``.
        sparse: As torch's; such a call is left to torch.
        per_sample_weights: Factors of the embeddings, of the shape of ``input``.
        include_last_offset: Whether ``offsets`` ends with the number of indices.
        padding_idx: An index that does not count.

    Returns:
        The bags, shape (bags, features), torch's but for the order of sums; None where the call is
        none for this function.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[1.0], [2.0]], requires_grad=True)
        >>> bag = embedding_bag(torch.tensor([[0, 1, 1]]), weight, mode="sum")
        >>> slope, = torch.autograd.grad((bag**2).sum(), weight, create_graph=True)
        >>> torch.autograd.grad(slope[1, 0], weight)[0].T  # 2·(w₀ + 2·w₁)²
        tensor([[4., 8.]])
    """
    del norm_type
    if mode not in ("sum", "mean") or sparse or scale_grad_by_freq or max_norm is not None:
        return None
    if not eligible(weight):
        return None
    indices = input.reshape(-1)
    counted = torch.ones_like(indices, dtype=weight.dtype)
    if padding_idx is not None:
        counted = (indices != padding_idx % len(weight)).to(weight.dtype)
    factors = counted if per_sample_weights is None else counted * per_sample_weights.reshape(-1)
    number, bags = _bags(input, offsets, include_last_offset)
    words = F.embedding(indices, weight) * factors[:, None]
    sums = words.new_zeros((number, weight.shape[1])).index_add(0, bags, words)
    if mode == "sum":
        return sums
    return sums / counted.new_zeros(number).index_add(0, bags, counted).clamp_min(1.0)[:, None]


def _bags(input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[int, Tensor]:
    """The number of bags, and the bag of each index."""
    if offsets is None:
        number, size = input.shape
        return number, torch.arange(number, device=input.device).repeat_interleave(size)
    starts = offsets[:-1] if include_last else offsets
    places = torch.arange(len(input), device=input.device, dtype=starts.dtype)
    return len(starts), torch.bucketize(places, starts, right=True) - 1
