"""Storages on servers, where the environment names them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import databases
from databases import Address


@contextmanager
def fresh(kind: str) -> Iterator[Address]:
    """A storage that holds nothing; skips the test where its server is not named."""
    if not databases.is_named(kind):
        pytest.skip(f"needs a server: {databases.SERVERS[kind]} is not set")
    with databases.fresh(kind) as address:
        yield address
