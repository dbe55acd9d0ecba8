"""What users pass as data: what counts as a batch, its size, and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from optuna_hypergrad.arguments import short
from optuna_hypergrad.autodiff.snapshot import same_bits

Batch = Any
Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


def nbytes(batch: Batch) -> int:
    """Memory of the tensors and arrays in a batch."""
    return sum(leaf.nbytes for leaf in _leaves(batch) if isinstance(leaf, Tensor | np.ndarray))


def _leaves(batch: Batch, above: tuple[int, ...] = ()) -> Iterator[Any]:
    """What a batch consists of: tensors, arrays, numbers and texts."""
    parts: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, tuple | list):
        parts = batch
    elif not isinstance(batch, Tensor | np.ndarray) and hasattr(batch, "__dict__"):
        parts = vars(batch).values()
    else:
        yield batch
    for part in parts:
        if id(part) not in above:  # a batch may refer to itself
            yield from _leaves(part, (*above, id(batch)))


def equal(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same; NaN equals NaN. Objects of unknown content are equal."""
    return all(_equal_leaves(*pair) for pair in zip_longest(_leaves(first), _leaves(second)))


def _equal_leaves(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return same_bits(first, second)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(
            first, second, first.dtype.kind in "fc"
        )
    is_plain = isinstance(first, float | int | str | bytes)
    return type(first) is type(second) and (not is_plain or first == second or first != first)


def generators_of(data: object) -> Iterator[torch.Generator]:
    """The generators of a ``DataLoader`` and of its samplers."""
    seen = []
    for name in ("", "sampler", "batch_sampler"):
        owner = getattr(data, name, None) if name else data
        for part in (owner, getattr(owner, "sampler", None)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in seen:
                seen.append(generator)
                yield generator


def is_batch(data: Batch | Iterable[Batch], of_tensors: bool = False) -> bool:
    """Whether ``data`` is one batch rather than an iterable of batches.

    A tensor, a mapping (or what has ``keys`` as one) and a tuple that holds a tensor are one batch,
    and so is a list that holds one, ``[x, y]``. But where the training batches are tensors
    themselves, a list of tensors is a list of such batches.

    Args:
        data: Validation data.
        of_tensors: Whether each training batch is a tensor, not a tuple, list or mapping.

    Example:
        >>> tokens = [torch.zeros(8, 5), torch.zeros(8, 5)]
        >>> is_batch(tokens, of_tensors=False), is_batch(tokens, of_tensors=True)
        (True, False)
    """
    if isinstance(data, list) and of_tensors and all(isinstance(part, Tensor) for part in data):
        return False
    if isinstance(data, tuple | list):
        return any(isinstance(part, Tensor) for part in data)
    if isinstance(data, Tensor | Mapping) or hasattr(data, "keys"):
        return True
    return not isinstance(data, Iterable)


def sized(data: Batch | Iterable[Batch], of_tensors: bool = False) -> Iterator[tuple[Batch, int]]:
    """The batches with their numbers of examples, by which they count; a single one counts once."""
    if is_batch(data, of_tensors):
        yield data, 1
    else:
        yield from ((batch, batch_size(batch)) for batch in data)


def batch_size(batch: Batch) -> int:
    """Number of examples: the first dimension of the first tensor or array in the batch."""
    parts = batch.values() if isinstance(batch, Mapping) else batch
    parts = parts if isinstance(parts, Iterable) else ()
    parts = [batch] if isinstance(batch, Tensor | np.ndarray) else parts
    arrays = [part for part in parts if isinstance(part, Tensor | np.ndarray)]
    if not arrays or arrays[0].ndim == 0:
        raise ValueError(
            "validation: the size of a batch is unknown; expected a tensor, or a tuple, list or "
            f"mapping whose first tensor counts examples in its first dimension, got {batch!r}."
        )
    return len(arrays[0])


def check_batches(batches: Any) -> None:
    """Raise a ValueError if training batches are one batch, a data set, or arrays."""
    _check_kind("batches", batches)
    if isinstance(batches, tuple | Tensor | Mapping) and is_batch(batches):
        raise ValueError(
            "batches: got a single batch; expected a sequence of batches. [batch] is the same one "
            "at every step; tensors that are a batch each belong in a list."
        )
    if not callable(batches) and not isinstance(batches, Iterable):
        expected = "a sequence, another iterable, or a function of the step"
        raise ValueError(f"batches must be {expected}, got {short(batches)}.")
    if not isinstance(batches, list) or not all(isinstance(part, Tensor) for part in batches):
        return
    if len({(part.dtype, part.ndim) for part in batches}) > 1:
        kinds = ", ".join(f"{str(part.dtype)[6:]} {tuple(part.shape)}" for part in batches[:3])
        raise ValueError(
            f"batches: got a list of different tensors ({kinds}), which is either one batch or a "
            "list of batches: write [(x, y)] for one batch at every step, [(x1, y1), (x2, y2)] for "
            "two."
        )


def check_validation(validation: Any) -> None:
    """Raise a ValueError if validation data are neither a batch nor an iterable of batches."""
    _check_kind("validation", validation)
    if isinstance(validation, str | bytes | None) or (
        callable(validation) and not isinstance(validation, Iterable)
    ):
        expected = "a batch or an iterable of batches, such as a DataLoader"
        raise ValueError(f"validation must be {expected}, got {short(validation)}.")
    if isinstance(validation, tuple | list) and not is_batch(validation):
        if not validation:
            raise ValueError("validation: got no examples, expected at least one batch.")
        batch_size(validation[0])


def _check_kind(argument: str, data: Any) -> None:
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise ValueError(
            f"{argument}: got the data set {type(data).__name__}, expected batches of it: "
            "DataLoader(data, batch_size=…), or batch_size=None where its items are batches."
        )
    parts = data if isinstance(data, tuple) or argument == "validation" else ()
    parts = parts if isinstance(parts, tuple | list) else ()
    for part in (data, *parts):
        if hasattr(part, "__array__") and not isinstance(part, Tensor | np.generic):
            raise ValueError(
                f"{argument}: got a {type(part).__module__.split('.')[0]} {type(part).__name__}, "
                "expected tensors; make one by torch.from_numpy or torch.tensor."
            )
