"""Elementwise clipping of Hessian products, the approximation of the published method."""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_hypergrad.arguments import check_positive


class ProductClipping:
    """Clips the entries of Hessian products, and counts them.

    Args:
        bound: Largest absolute value of an entry (FDS, Appendix B: 10), or None for no clipping.

    Raises:
        ValueError: If ``bound`` is not positive.
    """

    def __init__(self, bound: float | None) -> None:
        check_positive("clip_products", bound, or_none=True)
        self._bound = bound
        self._n_clipped: Tensor | float = 0.0  # a tensor, which no step waits for
        self._n_entries = 0

    def __call__(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """The products with clipped entries, and the number of entries that change."""
        if self._bound is None:
            return products, products.new_zeros((), dtype=torch.float64)
        n_clipped = (products.abs() > self._bound).sum(dtype=torch.float64)
        return products.clamp(-self._bound, self._bound), n_clipped

    def count(self, n_clipped: Tensor | float, n_entries: int) -> None:
        """Count entries of products, and those of them that were clipped."""
        self._n_clipped = self._n_clipped + n_clipped
        self._n_entries += n_entries

    @property
    def fraction(self) -> float:
        """Fraction of all entries that were clipped."""
        return float(self._n_clipped) / max(self._n_entries, 1)
