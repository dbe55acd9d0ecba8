"""The processes of one launch, which train together, and the messages between them."""

from __future__ import annotations

import atexit
import gc
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class RankError(RuntimeError):
    """The ranks cannot continue together: one has died or failed, or they run different code."""


class Message(NamedTuple):
    """What each rank sends to all."""

    place: str  # in the program
    value: Any  # JSON
    failure: str | None = None  # the error that it has raised


class Ranks:
    """This process and the others of its launch, as ``join`` returns them.

    Ranks communicate only by gathers: every rank sends a message and receives those of all. They
    are then at the same place in the program, or learn which rank is not; a rank that has raised
    says so in place of its next gather. So no rank waits for one that will not come, and a gather
    that fails, fails on all ranks. Messages are JSON.

    Args:
        group: A process group of gloo; None for a single process.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self._failure: str | None = None  # of the last gather
        self.is_lost = False  # whether a rank is gone for good
        self._is_together = False  # whether within a block that all ranks run

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which has the study."""
        return self.rank == 0

    def gather(self, place: str, value: Any = None) -> list[Any]:
        """Send ``value`` and receive the values of all ranks, by rank.

        Args:
            place: The place in the program, the same for all ranks.
            value: A JSON value.

        Raises:
            RankError: If a rank is somewhere else, has raised, or is gone.
        """
        messages = self._exchanged(Message(place, value))
        for rank, message in enumerate(messages):
            if message.failure is not None:
                raise self._failed(f"rank {rank} raised {message.failure}")
        for rank, message in enumerate(messages):
            if message.place != messages[0].place:
                raise self._failed(
                    f"rank 0 is at {messages[0].place} and rank {rank} at {message.place}; "
                    "all ranks must run the same program"
                )
        return [message.value for message in messages]

    def broadcast(self, place: str, value: Callable[[], Any]) -> Any:
        """The value of rank 0; the others do not call ``value``.

        Args:
            place: The place in the program, the same for all ranks.
            value: Returns a JSON value.

        Raises:
            RankError: As for ``gather``.
        """
        return self.gather(place, value() if self.is_first else None)[0]

    def agree(self, place: str, facts: Mapping[str, Any]) -> None:
        """Raise a RankError on all ranks that names the first fact in which they differ.

        Args:
            place: The place in the program, the same for all ranks.
            facts: JSON values by name.
        """
        found = self.gather(place, dict(facts))
        for name in {name: None for theirs in found for name in theirs}:  # also names missing here
            for rank, theirs in enumerate(found):
                if theirs.get(name) != found[0].get(name):
                    raise self.differ(name, found[0].get(name), rank, theirs.get(name))

    def differ(self, name: str, first: Any, rank: int, other: Any) -> RankError:
        """The error for a difference that all ranks have found."""
        return self._failed(
            f"{name}: {first} on rank 0, {other} on rank {rank}; all ranks must train the same run "
            "(the same seeds, data and hyperparameters)"
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """A ``with`` block that all ranks run; an error on one raises a RankError on the others.

        A block within another is part of it.
        """
        if self._is_together:
            yield
            return
        self.begin()
        self._is_together = True
        try:
            yield
        except RankError:
            raise  # all ranks know
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self._is_together = False

    def begin(self) -> None:
        """Continue after a gather that failed, if no rank is lost."""
        if not self.is_lost:
            self._failure = None

    def fail(self, error: Exception) -> None:
        """Send the error of this rank to the others, in place of the next gather."""
        failure = f"{type(error).__name__}: {error}".rstrip(".")
        with suppress(RankError):  # no other rank is left; the error itself says more
            self._exchanged(Message("an error", None, failure))
            self._failure = f"rank {self.rank} raised {failure}"

    def __getattr__(self, name: str) -> Any:
        """The old names ``meet`` and ``told``."""
        new = {"meet": "gather", "told": "broadcast"}.get(name)
        if new is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        message = f"Ranks.{name} is now called {new}; the next version removes the old name."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return getattr(self, new)

    def _exchanged(self, message: Message) -> list[Message]:
        if self._failure is not None:
            raise RankError(f"rank {self.rank} of {self.size}: {self._failure}.")
        if self._group is None:
            return [message]
        try:
            found = _all_gather_bytes(json.dumps(message).encode(), self._group)
        except RuntimeError as error:
            self.is_lost = True
            raise self._failed(
                f"lost another rank at {message.place}: it has ended, or has not answered in time, "
                "or the network is down; its own output may say more"
            ) from error
        return [Message(*json.loads(text)) for text in found]

    def _failed(self, why: str) -> RankError:
        self._failure = why
        return RankError(f"rank {self.rank} of {self.size}: {why}.")


_joined: Ranks | None = None


def join(*, timeout: float | None = None) -> Ranks:
    """Join the other ranks of this launch; later calls return the same ranks.

    Under ``torchrun``, or if ``torch.distributed`` is initialized, these are all of its processes;
    else there is one rank. Messages are small and use gloo, on machines with GPUs too and beside
    any NCCL group: gloo notices a process that is gone.

    Args:
        timeout: Seconds that a rank waits for another; None for half an hour. It must exceed the
            time by which ranks may drift apart, at most a hundredth of the training.

    Raises:
        ValueError: If ``timeout`` is not positive, or this process has joined already.

    Example:
        >>> from optuna_hypergrad.distributed import join
        >>> ranks = join()  # a single process
        >>> ranks.rank, ranks.size, ranks.gather("the loss", 0.5)
        (0, 1, [0.5])
    """
    global _joined
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds or None, got {timeout}.")
    if _joined is None:
        _joined = Ranks(_new_group(timedelta(seconds=timeout or 1800.0)))
    elif timeout is not None:
        raise ValueError(f"timeout: this process has joined already, so {timeout} comes too late.")
    return _joined


def _new_group(timeout: timedelta) -> dist.ProcessGroup | None:
    if not dist.is_available() or not (dist.is_initialized() or "WORLD_SIZE" in os.environ):
        return None
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timeout)
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    atexit.register(_leave)
    return group


def _leave() -> None:
    """Release the group, so that its threads end before the interpreter does.

    A thread of gloo that frees the tensors of the last gather while the interpreter ends aborts
    the process. Threads are joined when nothing refers to their group any more, not even a cycle
    of errors and their frames.
    """
    if _joined is None:
        return
    group, _joined._group = _joined._group, None
    if dist.is_initialized():  # else the user has destroyed all groups
        dist.destroy_process_group(group)
    del group
    gc.collect()


def _all_gather_bytes(mine: bytes, group: dist.ProcessGroup) -> list[bytes]:
    """The messages of all ranks, of any length each."""
    lengths = [int(n) for n in _all_gather(torch.tensor([len(mine)]), group)]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    texts = _all_gather(padded, group)
    return [bytes(text[:n].tolist()) for text, n in zip(texts, lengths, strict=True)]


def _all_gather(mine: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, mine, group=group)
    return found
