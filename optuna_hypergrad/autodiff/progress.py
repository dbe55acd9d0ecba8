"""Progress bars on standard error, where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int, what: str, shown: bool) -> Iterable[T]:
    """The items, with a bar that counts them where ``shown``."""
    if not shown:
        return items
    from tqdm.auto import tqdm

    bar: Iterable[T] = tqdm(items, total=total, desc=what, unit="step", disable=None)
    return bar
