"""What to say where an optional library is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needing(library: str, extra: str = "visualization") -> Iterator[None]:
    """Imports of an optional library; an ImportError says which extra installs it.

    Example:
        >>> with needing("nowhere"):
        ...     import nowhere
        Traceback (most recent call last):
        ImportError: nowhere is needed: install the extra 'visualization' of optuna_hypergrad.
    """
    try:
        yield
    except ImportError as error:
        message = f"{library} is needed: install the extra '{extra}' of optuna_hypergrad."
        raise ImportError(message) from error
