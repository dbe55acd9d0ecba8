"""Batches: those of the training in order, and checks of what users pass as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from optuna_hypergrad.arguments import checked_count, short
from optuna_hypergrad.autodiff.generators import GeneratorStates
from optuna_hypergrad.autodiff.snapshot import same_bits

Batch = Any
Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


class _Peeked(NamedTuple):
    """What a function returned before its step, and the random numbers before and after."""

    batch: Batch
    before: GeneratorStates
    after: GeneratorStates


class TrainingBatches:
    """Batches by number, repeated from the start when they end.

    A function or a sequence gives any batch at any time. Another iterable (a ``DataLoader``) is
    iterated from the start of its pass, with the random numbers of that time, so that a shuffle
    comes out the same.

    Args:
        batches: A sequence, another iterable, or a function from the number to the batch.
        device: The device of the model's weights.
        accumulate: Number of batches of a training step.

    Raises:
        ValueError: If ``batches`` is a single batch, or ``accumulate`` is not a positive integer.
    """

    def __init__(self, batches: Batches, device: torch.device, accumulate: int = 1) -> None:
        _check_batches(batches)
        self._batches, self._device = batches, device
        self.accumulate = checked_count("accumulate", accumulate)
        self.generators = list(_generators_of(batches))
        # Whether the batches of any step can be taken at any time.
        self.is_indexed = callable(batches) or isinstance(batches, Sequence)
        self.is_list = type(batches) in (list, tuple)  # whose items no code of users makes
        data_set = getattr(batches, "dataset", None)
        self.is_iterator = isinstance(batches, Iterator) or isinstance(data_set, Iterator)
        self.keeps_passes = True  # False if no pass is iterated again; saves their random numbers
        self._position = 0
        self._passes: dict[int, GeneratorStates] = {}  # by the number of its first batch
        self._iterator: Iterator[Batch] = iter(())
        self._peeked: _Peeked | None = None

    @cached_property
    def is_once_only(self) -> bool:
        """Whether batches cannot be taken again: an iterator, or a function that fails to.

        Raises:
            ValueError: If a function returns another batch for the same step and random numbers,
                as ``lambda step: next(data)`` does.
        """
        if not callable(self._batches):
            return self.is_iterator
        first = self._peeked = self._call_first()
        first.before.restore()
        try:
            again = self._call_first()
        except Exception:  # whatever the data raise if they cannot be taken again
            return True
        finally:
            first.before.restore()
        if not _equal(first.batch, again.batch):
            raise ValueError(
                "batches: the function returned another batch when it was called again for step 0, "
                "so that steps cannot be recomputed. Pass mode='forward', or return the same batch "
                "for the same step: draw from the global generators of torch, numpy or Python, or "
                "from one that the step seeds."
            )
        return False

    def take(self) -> tuple[Batch, ...]:
        """The batches of the next step."""
        return tuple(self._next() for _ in range(self.accumulate))

    def at(self, step: int) -> tuple[Batch, ...]:
        """The batches of any step, if ``is_indexed``."""
        self._position = step * self.accumulate
        return self.take()

    def peek(self) -> Batch:
        """The first batch, which ``take`` gives again; generators may have moved.

        A function is not called again for it.
        """
        if callable(self._batches):
            self._peeked = self._peeked or self._call_first()
            return self._peeked.batch
        batch = self._next()
        self._passes.clear()
        self.seek(0)
        return batch

    def seek(self, step: int) -> None:
        """Continue from any step; random number generators are left in an arbitrary state."""
        self._position = number = step * self.accumulate
        if self.is_indexed:
            return
        first = max((start for start in self._passes if start <= number), default=number)
        self._iterator = iter(())
        if first < number:  # else the pass begins when its first batch is taken
            self._passes[first].restore()
            self._iterator = iter(self._batches)  # type: ignore[arg-type]
            for _ in range(number - first):
                next(self._iterator)

    def _next(self) -> Batch:
        number = self._position
        self._position += 1
        if callable(self._batches):
            return self._batches(number) if self._peeked is None else self._take_peeked()
        if isinstance(self._batches, Sequence):
            if not self._batches:
                raise _ended(number)
            return self._batches[number % len(self._batches)]
        for batch in self._iterator:
            return batch
        self._begin_pass(number)
        for batch in self._iterator:
            return batch
        raise _ended(number)

    def _call_first(self) -> _Peeked:
        assert callable(self._batches)
        before = GeneratorStates.now(self._device, self.generators)
        batch = self._batches(0)
        return _Peeked(batch, before, GeneratorStates.now(self._device, self.generators))

    def _take_peeked(self) -> Batch:
        assert self._peeked is not None
        batch, before, after = self._peeked
        self._peeked = None
        now = GeneratorStates.now(self._device, self.generators, before)
        if now is before:  # nothing was drawn since: as if called now
            after.restore()
        return batch

    def _begin_pass(self, number: int) -> None:
        if not self.keeps_passes:
            self._passes.clear()
        if number in self._passes:  # a sampler may draw when its pass ends, which is not repeated
            self._passes[number].restore()
        self._passes.setdefault(number, GeneratorStates.now(self._device, self.generators))
        self._iterator = iter(self._batches)  # type: ignore[arg-type]


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


def _equal(first: Batch, second: Batch) -> bool:
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


def _ended(number: int) -> ValueError:
    return ValueError(
        f"batches ended after {number}, before the last step; expected a sequence, an iterable "
        "that can be iterated again, or a function from the number to the batch."
    )


def _generators_of(data: object) -> Iterator[torch.Generator]:
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


def _check_batches(batches: Any) -> None:
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
