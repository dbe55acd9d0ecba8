"""The processes of one launch, which train together, and all that they say to each other."""

from __future__ import annotations

import atexit
import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class RankError(RuntimeError):
    """The ranks cannot go on together: one has died or failed, or they do not do the same."""


class Message(NamedTuple):
    """What each rank says when they meet."""

    place: str  # where it is in the program
    value: Any  # JSON
    failure: str | None = None  # what it has raised


class Ranks:
    """This process and the others of its launch; ``join`` makes it.

    They talk only by meeting: every rank says something and hears what all say. All are at the
    same place in the program then, or have learned which is not, and a rank that has raised says
    so where it would have met the others next. So nobody waits for a rank that will not come, and
    a meeting that fails, fails on all ranks. What they say is JSON.

    Args:
        group: A process group of gloo's; None for a process on its own.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self._parted: str | None = None  # why, after a meeting that failed
        self.lost = False  # whether that is for good
        self._within = False  # whether in a block that all ranks run together

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which talks to the study."""
        return self.rank == 0

    def meet(self, place: str, value: Any = None) -> list[Any]:
        """Say ``value`` and hear the values of all ranks, by rank.

        Args:
            place: Where this rank is in the program; the same for all.
            value: Anything that JSON holds.

        Raises:
            RankError: If a rank is somewhere else, has raised, or is gone.
        """
        messages = self._exchanged(Message(place, value))
        for rank, message in enumerate(messages):
            if message.failure is not None:
                raise self._parting(f"rank {rank} raised {message.failure}")
        for rank, message in enumerate(messages):
            if message.place != messages[0].place:
                raise self._parting(
                    f"rank 0 is at {messages[0].place} and rank {rank} at {message.place}; "
                    "all ranks must run the same program"
                )
        return [message.value for message in messages]

    def told(self, place: str, say: Callable[[], Any]) -> Any:
        """What rank 0 says; the others do not call ``say``.

        Args:
            place: Where this rank is in the program; the same for all.
            say: Gives anything that JSON holds.

        Raises:
            RankError: As for ``meet``.
        """
        return self.meet(place, say() if self.is_first else None)[0]

    def agree(self, place: str, facts: Mapping[str, Any]) -> None:
        """Raise a RankError on all ranks that names the first of the facts that is not the same.

        Args:
            place: Where this rank is in the program; the same for all.
            facts: What JSON holds, by name.
        """
        found = self.meet(place, dict(facts))
        for name in {name: None for theirs in found for name in theirs}:  # also what we lack
            for rank, theirs in enumerate(found):
                if theirs.get(name) != found[0].get(name):
                    raise self.differ(name, found[0].get(name), rank, theirs.get(name))

    def differ(self, name: str, first: Any, rank: int, other: Any) -> RankError:
        """The error for what is not the same on all ranks, as all of them know."""
        return self._parting(
            f"{name}: {first} on rank 0, {other} on rank {rank}; all ranks must train the same run "
            "(the same seeds, data and hyperparameters)"
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """A ``with`` block that all ranks run; what one raises in it, the others hear of.

        One within another is part of it.
        """
        if self._within:
            yield
            return
        self.begin()
        self._within = True
        try:
            yield
        except RankError:
            raise  # all know
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self._within = False

    def begin(self) -> None:
        """Be ready to meet again after a meeting that failed, where all ranks still live."""
        if not self.lost:
            self._parted = None

    def fail(self, error: Exception) -> None:
        """Tell the others what this rank has raised, in place of the next meeting."""
        failure = f"{type(error).__name__}: {error}".rstrip(".")
        with suppress(RankError):  # nobody to tell; the error itself says more
            self._exchanged(Message("an error", None, failure))
            self._parted = f"rank {self.rank} raised {failure}"

    def _exchanged(self, message: Message) -> list[Message]:
        if self._parted is not None:
            raise RankError(f"rank {self.rank} of {self.size}: {self._parted}.")
        if self._group is None:
            return [message]
        try:
            found = _gathered(json.dumps(message).encode(), self._group)
        except RuntimeError as error:
            self.lost = True
            raise self._parting(
                f"lost another rank at {message.place}: it has ended, or has not answered in time, "
                "or the network is down; its own output may say more"
            ) from error
        return [Message(*json.loads(text)) for text in found]

    def _parting(self, why: str) -> RankError:
        self._parted = why
        return RankError(f"rank {self.rank} of {self.size}: {why}.")


_joined: Ranks | None = None


def join(*, timeout: float | None = None) -> Ranks:
    """Join the other ranks of this launch, or give what was joined before.

    Under ``torchrun``, or where ``torch.distributed`` has been set up otherwise, these are all of
    its processes; else there is one rank. What they exchange is small, and goes over gloo on
    machines with GPUs as well, beside any group for NCCL: gloo notices a process that is gone.

    Args:
        timeout: Seconds that a rank waits for another; None for half an hour. It must be longer
            than the ranks' shares of work may differ, a hundredth of the training or less.

    Raises:
        ValueError: If ``timeout`` is not positive, or given although this process has joined.

    Example:
        >>> from optuna_hypergrad.distributed import join
        >>> ranks = join()  # in a process on its own
        >>> ranks.rank, ranks.size, ranks.meet("breakfast", "tea")
        (0, 1, ['tea'])
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
    assert isinstance(group, dist.ProcessGroup)  # of which every rank is a member
    atexit.register(_leave)
    return group


def _leave() -> None:
    """Let go of the group, so that its threads end before the interpreter does.

    A thread of gloo that drops the tensors of the last meeting while the interpreter ends aborts
    the process. Threads are joined when nothing refers to their group any more, and no cycle of
    errors and their frames either.
    """
    if _joined is None:
        return
    group, _joined._group = _joined._group, None
    if dist.is_initialized():  # else the user has closed all groups
        dist.destroy_process_group(group)
    del group
    gc.collect()


def _gathered(mine: bytes, group: dist.ProcessGroup) -> list[bytes]:
    """What all ranks say, of any length each."""
    lengths = [int(n) for n in _all(torch.tensor([len(mine)]), group)]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    texts = _all(padded, group)
    return [bytes(text[:n].tolist()) for text, n in zip(texts, lengths, strict=True)]


def _all(mine: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, mine, group=group)
    return found
