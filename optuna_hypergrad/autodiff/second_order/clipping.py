"""Elementwise clipping of Hessian products, the approximation of the published method."""

from __future__ import annotations

from torch import Tensor

from optuna_hypergrad.arguments import check_positive


class ProductClipping:
    """Clips the entries of Hessian products, and counts those that it changes.

    Args:
        bound: Largest absolute value of an entry (FDS, Appendix B: 10), or None for no clipping.
        like: A tensor of the dtype and device of the products.

    Raises:
        ValueError: If ``bound`` is not positive.
    """

    def __init__(self, bound: float | None, like: Tensor) -> None:
        check_positive("clip_products", bound, or_none=True)
        self._bound = bound
        self._n_clipped = like.new_zeros(()).long()  # a tensor, which no step waits for
        self._n_entries = 0

    def __call__(self, products: Tensor) -> Tensor:
        """The products with clipped entries."""
        if self._bound is None:
            return products
        self._n_entries += products.numel()
        self._n_clipped += (products.abs() > self._bound).sum()
        return products.clamp(-self._bound, self._bound)

    @property
    def fraction(self) -> float:
        """Fraction of all entries that were clipped."""
        return int(self._n_clipped) / max(self._n_entries, 1)
