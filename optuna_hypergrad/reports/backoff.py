"""What is tried again where a storage is out of reach for a moment.

Optuna writes each attribute in a transaction of its own, so a write that failed has left nothing,
or all of it, and may be repeated. A decision that could not be made or stored would leave its trial
running for ever: Optuna does not fail a trial whose ``before_trial`` raises.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from optuna_hypergrad.logger import get_logger

T = TypeVar("T")

DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds, on average; then the error is raised

# By name, since the clients of storages may not be installed.
_PASSING = {
    "builtins.OSError",  # connections, timeouts, file locks
    "optuna.exceptions.StorageInternalError",  # whatever SQLAlchemy raises, deadlocks included
    "redis.exceptions.ConnectionError",
    "redis.exceptions.TimeoutError",
    "grpc.RpcError",
}
# An objective's random numbers must not depend on faults, nor forked workers pause in step.
_random = random.SystemRandom()


def with_backoff(what: str, attempt: Callable[[], T]) -> T:
    """Read or write, and again after pauses while that fails for a reason that may pass.

    The pauses are random, from half to one and a half times ``DELAYS``, so that workers that got
    into each other's way do not meet again. Each is logged, without the error's text, in which
    drivers may quote what they connected to.

    Args:
        what: What is read or written, for the log.
        attempt: Does it; may be called several times.

    Raises:
        Exception: What ``attempt`` raises, at once if it would raise it again.

    Example:
        >>> with_backoff("an attribute", lambda: 3)
        3
    """
    for delay in DELAYS:
        try:
            return attempt()
        except Exception as error:
            if not may_pass(error):
                raise
            pause = delay * _random.uniform(0.5, 1.5)
            get_logger().warning(f"{what}: {type(error).__name__}; tried again in {pause:.1f} s.")
        time.sleep(pause)
    return attempt()


def may_pass(error: BaseException) -> bool:
    """Whether an error is of a kind that another attempt may be spared."""
    kinds = type(error).__mro__
    return any(f"{kind.__module__}.{kind.__qualname__}" in _PASSING for kind in kinds)
