"""The hyperparameters that all layers of a converted model are conditioned on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_can, check_kind, checked_number
from optuna_hypergrad.hypernet.transforms import Discrete, Transform


class Conditioning:
    """Current hyperparameters of a converted model, shared by its layers.

    It holds the centre u, the current hyperparameters in unconstrained numbers, and within ``at``
    another point u' for each example of a batch. Layers respond to u' − u (centred) or to u';
    regularisers and your own augmentation read natural values by name.

    It is not a module: the model's state dict lacks the centre, that of ``HyperTraining`` has it.
    A copy of a model has its own conditioning, see ``Conditioning.of``.

    Args:
        transforms: Transforms of the hyperparameters by name, in the order of u's entries.
        values: Initial values by name, in natural units.
        centred: Whether layers respond to u' − stopgrad(u), which is zero at the centre, where the
            converted model then equals the plain one. Otherwise they respond to u'.

    Raises:
        ValueError: If the names differ or a value lies outside its range.

    Reference:
        MacKay et al. 2019 (self-tuning networks); Bae & Grosse 2020 (the centred form).

    Example:
        >>> from optuna_hypergrad.hypernet import Bounded, Discrete
        >>> holder = Conditioning({"rate": Bounded(0.0, 0.8), "holes": Discrete(0, 4)},
        ...                       {"rate": 0.4, "holes": 1})
        >>> holder["holes"]
        tensor(1.)
        >>> with holder.at(torch.zeros(3, 2)):   # three examples
        ...     holder["rate"]
        tensor([0.4000, 0.4000, 0.4000])
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        values: Mapping[str, float],
        *,
        centred: bool = True,
    ) -> None:
        for argument, given in (("transforms", transforms), ("values", values)):
            check_kind(argument, given, Mapping, "a mapping by name")
        for name, transform in transforms.items():
            check_can(f"transforms[{name!r}]", transform, "a transform", "constrain", "unconstrain")
        if not transforms or transforms.keys() != values.keys():
            raise ValueError(
                "values must name the hyperparameters of transforms, at least one, got "
                f"{list(values)} for {list(transforms)}."
            )
        self.transforms = dict(transforms)
        self.centred = centred
        self.centre = torch.zeros(len(transforms))  # u, shape (n,)
        self._point: Tensor | None = None  # u', shape (n,) or (batch, n)
        self.set_values(values)

    @staticmethod
    def of(model: nn.Module) -> Conditioning:
        """Return the conditioning of the layers of a converted model.

        Raises:
            ValueError: If there is none or more than one.
        """
        held = [getattr(module, "conditioning", None) for module in model.modules()]
        found = {id(one): one for one in held if isinstance(one, Conditioning)}
        if len(found) != 1:
            raise ValueError(f"model: expected one conditioning in it, found {len(found)}.")
        return next(iter(found.values()))

    @contextmanager
    def at(self, point: Tensor) -> Iterator[None]:
        """Condition the model on another point inside a ``with`` block.

        Args:
            point: Unconstrained hyperparameters, shape (n,), or (batch, n) for each example.

        Raises:
            ValueError: If the shape differs.
        """
        n = len(self)
        if point.dim() not in (1, 2) or point.shape[-1] != n:
            raise ValueError(
                f"point must have shape ({n},) or (batch, {n}), got {tuple(point.shape)}."
            )
        outer, self._point = self._point, point
        try:
            yield
        finally:
            self._point = outer

    @property
    def point(self) -> Tensor:
        """The current u', shape (n,) or (batch, n); the centre outside ``at``."""
        return self.centre if self._point is None else self._point

    @property
    def offset(self) -> Tensor:
        """Input of the response maps, shape of ``point``: u' − u, or u' if not centred."""
        return self.point - self.centre.detach() if self.centred else self.point

    @property
    def values(self) -> dict[str, float]:
        """The centre by name, in natural units; integers for discrete hyperparameters."""
        naturals = self.natural(self.centre).tolist()
        return {
            name: int(value) if isinstance(transform, Discrete) and isfinite(value) else value
            for (name, transform), value in zip(self.transforms.items(), naturals, strict=True)
        }

    def set_values(self, values: Mapping[str, float]) -> None:
        """Move the centre of the given hyperparameters to natural values.

        Raises:
            ValueError: If a name is unknown or a value lies outside its range.
        """
        centre = self.centre.detach().clone()
        for name, value in values.items():
            index = self._index(name)
            try:
                checked_number("value", value, "be a number", lambda x: True)
                centre[index] = self.transforms[name].unconstrain(value)
            except ValueError as error:
                raise ValueError(f"values: {name}: {error}") from error
        self.centre.copy_(centre)

    def natural(self, point: Tensor) -> Tensor:
        """Return the natural values of unconstrained points, shape (…, n)."""
        pairs = zip(self.transforms.values(), point.unbind(-1), strict=True)
        return torch.stack([transform.constrain(u) for transform, u in pairs], dim=-1)

    def __getitem__(self, name: str) -> Tensor:
        """Natural values of one hyperparameter, detached: shape (), or (batch,) within ``at``."""
        u = self.point[..., self._index(name)]
        return self.transforms[name].constrain(u.detach())

    def __len__(self) -> int:
        return len(self.transforms)

    def _index(self, name: str) -> int:
        if name not in self.transforms:
            raise ValueError(
                f"{name!r} is not a hyperparameter; known are {list(self.transforms)}."
            )
        return list(self.transforms).index(name)


def align(scales: Tensor, x: Tensor, trailing: int = 0) -> Tensor:
    """Reshape scales of shape (units,) or (batch, units) to broadcast with ``x``.

    ``x`` has the shape (batch, …, units) and ``trailing`` more dimensions.
    """
    scales = scales[(..., *[None] * trailing)]
    if scales.dim() == 1 + trailing:
        return scales
    if len(scales) != len(x):
        raise ValueError(
            f"point holds hyperparameters of {len(scales)} examples, but a layer got an input of "
            f"shape {tuple(x.shape)}; the first dimension must be that of the examples."
        )
    return scales[(slice(None), *[None] * (x.dim() - scales.dim()))]
