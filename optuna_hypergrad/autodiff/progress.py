"""What is told of a run while it trains: to a terminal, and to who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int, what: str, shown: bool) -> Iterable[T]:
    """The items, with a bar that counts them where ``shown``."""
    if not shown:
        return items
    from tqdm.auto import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc=what, unit="step", disable=None)
    return bar


@runtime_checkable
class WatchesTangents(Protocol):
    """An ``on_step`` that wants to look at the tangents, too."""

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Take what gives the largest norm of a column of ∂w/∂λ whenever it is called."""
