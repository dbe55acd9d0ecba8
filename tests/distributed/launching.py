"""Ranks as processes, without torchrun: each runs one function of ``programs.py``."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parents[1]
PROGRAMS = Path(__file__).with_name("programs.py")
IDLE = 2  # threads of torch's default group, which torch keeps and nobody here has used
PATIENCE = 120  # seconds, on a machine with other work


class Ended(NamedTuple):
    """How a rank's process has ended."""

    code: int
    found: Any  # what the program returned, None if it did not
    threads: int | None  # of gloo, that still ran when the interpreter ended
    errors: str


def start(program: str, size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start ``size`` ranks that run ``program``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS), program, *arguments],
            env={**os.environ, **own, "RANK": str(rank), "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for all ranks; none is left behind."""
    try:
        outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    found = []
    for process, (printed, errors) in zip(processes, outputs, strict=True):
        said = [json.loads(line) for line in printed.splitlines()]
        threads = said.pop() if said else None
        found.append(Ended(process.returncode, said[0] if said else None, threads, errors))
    return found


@cache
def launch(program: str, size: int, *arguments: str) -> list[Any]:
    """What every rank's program returns; the same program is launched once for all tests."""
    ranks = ended(start(program, size, *arguments))
    assert [rank.code for rank in ranks] == [0] * size, [rank.errors for rank in ranks]
    assert [rank.threads for rank in ranks] == [IDLE] * size
    return [rank.found for rank in ranks]
