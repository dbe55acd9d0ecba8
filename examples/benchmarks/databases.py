"""New storages of every kind, for benchmarks and tests; the environment names the servers.

    HYPERGRAD_POSTGRESQL=postgresql+psycopg://postgres@127.0.0.1:5432/postgres
    HYPERGRAD_MYSQL=mysql+pymysql://root@127.0.0.1:3306/mysql
    HYPERGRAD_REDIS=redis://127.0.0.1:6379/0

Each run creates its own databases (in Redis, keys) and drops them.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
import redis
import sqlalchemy
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    get_storage,
    run_grpc_proxy_server,
)
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

from optuna_hypergrad.journal import MendingLock

SERVERS = {
    "postgresql": "HYPERGRAD_POSTGRESQL",
    "mysql": "HYPERGRAD_MYSQL",
    "redis": "HYPERGRAD_REDIS",
}
KINDS = ("sqlite", "postgresql", "mysql", "journal", "redis", "grpc")

# Workers are forked from a process that only imports.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["alembic.command", "optuna_hypergrad.members", "sqlalchemy.orm"])


class Address(NamedTuple):
    """The address of a storage, for the processes that connect to it."""

    kind: str
    url: str
    name: str = ""  # prefix of its keys in Redis


def is_named(kind: str) -> bool:
    """Whether the environment names the server that this kind needs, if any."""
    return kind not in SERVERS or bool(os.environ.get(SERVERS[kind]))


def _server(kind: str) -> str:
    if not is_named(kind):
        raise SystemExit(f"set {SERVERS[kind]} to the URL of a {kind} server")
    return os.environ[SERVERS[kind]]


@contextmanager
def fresh(kind: str) -> Iterator[Address]:
    """Yield an empty storage, and drop it afterwards."""
    name = f"hypergrad_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield Address(kind, _sqlite(folder))
        elif kind == "journal":
            yield Address(kind, str(Path(folder, "journal.log")))
        elif kind == "grpc":
            with _proxy(_sqlite(folder)) as port:
                yield Address(kind, port)
        elif kind == "redis":
            yield from _redis(_server(kind), name)
        else:
            yield from _database(kind, _server(kind), name)


def connect(address: Address) -> BaseStorage:
    """A storage for this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if address.kind == "journal":
            lock = MendingLock(address.url)
            return JournalStorage(JournalFileBackend(address.url, lock))
        if address.kind == "redis":
            return JournalStorage(JournalRedisBackend(address.url, prefix=address.name))
        if address.kind == "grpc":
            proxy = GrpcStorageProxy(host="127.0.0.1", port=int(address.url))
            proxy.wait_server_ready(timeout=60)
            return proxy
    return get_storage(address.url)


def disconnect(storage: BaseStorage) -> None:
    """Close the connections of this process to a database, idle ones included."""
    backend = getattr(storage, "_backend", storage)  # of the cache that get_storage adds
    if isinstance(backend, RDBStorage):
        backend.engine.dispose()
    elif isinstance(backend, GrpcStorageProxy):
        backend.close()


def _sqlite(folder: str) -> str:
    return f"sqlite:///{folder}/study.db?timeout=60"  # 5 s are too short for many on a busy disk


def _database(kind: str, server: str, name: str) -> Iterator[Address]:
    url = sqlalchemy.make_url(server)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    force = " WITH (FORCE)" if kind == "postgresql" else ""  # workers may still be connected
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    try:
        yield Address(kind, url.set(database=name).render_as_string(hide_password=False))
    finally:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name}{force}"))
        engine.dispose()


def _redis(url: str, name: str) -> Iterator[Address]:
    with redis.Redis.from_url(url) as client:
        client.ping()
        try:
            yield Address("redis", url, name)
        finally:
            for key in client.scan_iter(match=f"{name}:*", count=10_000):
                client.delete(key)


@contextmanager
def _proxy(url: str) -> Iterator[str]:
    """Run a gRPC proxy in its own process; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = PROCESSES.Process(target=_serve, args=(url, port))
    server.start()
    try:
        yield str(port)
    finally:
        server.kill()
        server.join()


def _serve(url: str, port: int) -> None:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_grpc_proxy_server(get_storage(url), host="127.0.0.1", port=port)
