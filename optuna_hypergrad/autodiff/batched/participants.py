"""Threads whose training runs wait for each other, to be computed together.

One thread runs at a time, so that code of users needs no locks: a participant runs until it asks
for a training run or ends, and later whatever the computation of all runs calls it for, such as its
loss function. It always runs in its own thread, with its own random numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from optuna_hypergrad.autodiff.batched.generators import RunGenerators
from optuna_hypergrad.autodiff.result import Hypergradient

if TYPE_CHECKING:
    from optuna_hypergrad.autodiff.batched.request import Request

_Found = TypeVar("_Found")
_local = threading.local()


class Participant:
    """A thread that calls a function.

    Args:
        function: The function. Its exceptions end the thread alone, so it should catch them.
        generators: The states of random number generators that it begins with.
    """

    def __init__(self, function: Callable[[], object], generators: RunGenerators) -> None:
        self.generators = generators
        self.request: Request | None = None
        """The training run that it waits for."""
        self._resumed, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._task: Callable[[], object] | None = None
        self._is_stopped = False
        self._found: object = None
        self._error: BaseException | None = None
        self._cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)

    def start(self) -> None:
        """Call the function, until it waits or ends."""
        with self.generators.active():
            self._thread.start()
            self._paused.acquire()

    def call(self, function: Callable[[], _Found], *, draws: bool = True) -> _Found:
        """Call a function in the thread, which waits.

        Args:
            function: The function; its exceptions are raised here.
            draws: Whether it may draw random numbers that count.
        """
        self._task = function
        if draws:
            with self.generators.active():
                self._continue()
        else:
            self._continue()
        found, error = self._found, self._error
        self._found = self._error = None
        if error is not None:
            raise error
        return cast(_Found, found)

    def answer(self, found: Hypergradient | BaseException | None) -> None:
        """End the wait with a result, an exception, or None; the thread runs until the next."""
        self._task, self._found = None, found
        with self.generators.active():
            self._continue()

    def stop(self) -> None:
        """Raise a KeyboardInterrupt in the thread where it waits next."""
        self._is_stopped = True
        self._resumed.release()

    def join(self) -> None:
        """Wait for the end of the thread, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()

    def wait_for(self, request: Request) -> Hypergradient | None:
        """In the thread: the result of a training run, None if it is to be computed alone."""
        self.request = request
        self.generators.include(request.run.weights.device)
        self._pause()
        while (task := self._task) is not None and not self._is_stopped:
            _local.participant = None  # a run within it is computed alone
            try:
                self._found = task()
            except BaseException as error:  # raised in the thread that asked
                self._error = error
            _local.participant = self
            del task
            self._pause()
        self.request, found, self._found = None, self._found, None
        if self._is_stopped:
            raise KeyboardInterrupt
        if isinstance(found, BaseException):
            raise found
        return cast("Hypergradient | None", found)

    def _continue(self) -> None:
        self._resumed.release()
        self._paused.acquire()

    def _pause(self) -> None:
        self._paused.release()
        if not self._is_stopped:
            self._resumed.acquire()

    def _run(self, function: Callable[[], object]) -> None:
        _local.participant = self
        if self._cuda is not None:  # which torch keeps for each thread
            torch.cuda.set_device(self._cuda)
        try:
            function()
        finally:
            self.request = None
            self._paused.release()


def current() -> Participant | None:
    """The participant whose thread this is."""
    return getattr(_local, "participant", None)
