"""Hyperparameters of R runs at each step: stacked where the runs or the steps differ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.autodiff.hparams import Key, Owner, RunHparams
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.schedules import Schedule


class StackedValues(dict[str, float | Tensor]):
    """Values at one step by name: constants that all runs share, and tensors over the runs.

    Args:
        values: The values.
        numbers: By run, what is a number for a loss function, and not in ``values``.
    """

    def __init__(self, values: Values, numbers: Sequence[Mapping[str, float]]) -> None:
        super().__init__(values)
        self._numbers = numbers

    def of(self, run: int) -> dict[str, float | Tensor]:
        """The values of one run."""
        own = {k: v[run].clone() if isinstance(v, Tensor) else v for k, v in self.items()}
        return {**own, **self._numbers[run]}

    @property
    def tensors(self) -> list[Tensor]:
        """Those over the runs."""
        return tensors_of(self)

    @property
    def constants(self) -> Hashable | None:
        """All else; None if it differs from run to run."""
        numbers = {tuple(one.items()) for one in self._numbers}
        if len(numbers) > 1:
            return None
        return tuple((k, v) for k, v in self.items() if not isinstance(v, Tensor)), *numbers


class StackedAtStep(NamedTuple):
    """Values at one step of all runs."""

    update: StackedValues
    loss: StackedValues


class StackedHparams:
    """The hyperparameters of R runs.

    Those of the update that are no common constants are tensors of shape (R,), and so are those of
    the loss that are learned. Tensors of the loss have a first dimension of R.

    Args:
        hypers: Those of each run, with the same keys.
        like: A tensor of the dtype and device of the values.
    """

    def __init__(self, hypers: Sequence[RunHparams], like: Tensor) -> None:
        first = hypers[0]
        self._values: dict[Owner, dict[str, float | Tensor]] = {"update": {}, "loss": {}}
        self._tables: dict[Key, Tensor] = {}  # (T, R)
        # Of the loss, by run, of shape (T,).
        self._numbers: list[dict[str, NDArray[np.float64]]] = [{} for _ in hypers]
        self._none: list[dict[str, float]] = [{} for _ in hypers]
        for (owner, name), hparam in first.all.items():
            over = np.stack([_over(one, (owner, name)) for one in hypers], -1)
            is_learned = (owner, name) in first.learned
            if owner == "loss" and not is_learned:
                for numbers, column in zip(self._numbers, over.T, strict=True):
                    numbers[name] = column
            elif is_learned or isinstance(hparam, Schedule) or (over != over[0, 0]).any():
                self._tables[owner, name] = like.new_tensor(over)
            else:
                self._values[owner][name] = float(over[0, 0])
        at_start = [one.at(0).loss for one in hypers]
        for name, value in at_start[0].items():
            if isinstance(value, Tensor) and ("loss", name) not in first.learned:
                self._values["loss"][name] = torch.stack(
                    [torch.as_tensor(one[name]) for one in at_start]
                )

    def at(self, step: int) -> StackedAtStep:
        """Values at one step, of all runs."""
        rows: dict[Owner, dict[str, Tensor]] = {"update": {}, "loss": {}}
        for (owner, name), table in self._tables.items():
            rows[owner][name] = table[step].clone()  # which an update may change in place
        numbers = [{k: float(over[step]) for k, over in own.items()} for own in self._numbers]
        return StackedAtStep(
            StackedValues({**self._values["update"], **rows["update"]}, self._none),
            StackedValues({**self._values["loss"], **rows["loss"]}, numbers),
        )


def tensors_of(values: Values) -> list[Tensor]:
    """The values that are tensors."""
    return [value for value in values.values() if isinstance(value, Tensor)]


def _over(hypers: RunHparams, key: Key) -> NDArray[np.float64]:
    """Values at all steps, shape (T,)."""
    hparam = hypers.all[key]
    if isinstance(hparam, Schedule):
        return np.asarray(hparam.over(hypers.steps), float)
    return np.full(hypers.steps, float(hparam))
