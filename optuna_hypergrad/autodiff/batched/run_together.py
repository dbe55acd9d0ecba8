"""A function called for several arguments, whose training runs are computed as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch

from optuna_hypergrad.autodiff.batched.generators import forked
from optuna_hypergrad.autodiff.batched.participants import Participant
from optuna_hypergrad.autodiff.batched.stacked import KnownTraces
from optuna_hypergrad.autodiff.batched.together import Together
from optuna_hypergrad.autodiff.generators import GeneratorStates

_Given = TypeVar("_Given")


class RunTogether:
    """Calls functions in threads of their own, one at a time, and computes their runs as one.

    It keeps what it records of the runs for the next call.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD, hypergradient
        >>> x = torch.ones(1, 1)
        >>> def trained(lr):
        ...     model = torch.nn.Linear(1, 1, bias=False)
        ...     _ = torch.nn.init.constant_(model.weight, 1.0)
        ...     loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        ...     return hypergradient(model, loss, SGD(Schedule("lr", [lr])), [x], x, steps=2).loss
        >>> RunTogether()(trained, [0.5, 0.0])
        [0.03125, 0.5]
    """

    def __init__(self) -> None:
        # By the number of runs and their shape.
        self._known: dict[Hashable, KnownTraces] = defaultdict(KnownTraces)

    def __call__(
        self,
        function: Callable[[_Given], Any],
        given: Sequence[_Given],
        outcomes: list[Any] | None = None,
    ) -> list[Any]:
        """The result of the function for each argument, or its exception.

        Args:
            function: The function, which may call ``hypergradient``.
            given: The arguments.
            outcomes: A list that is filled with the results, also where this is interrupted; those
                that are missing are a KeyboardInterrupt.
        """
        found = [] if outcomes is None else outcomes
        found[:] = [KeyboardInterrupt() for _ in given]

        def run(i: int) -> None:
            try:
                found[i] = function(given[i])
            except BaseException as error:
                found[i] = error

        participants = [Participant(lambda i=i: run(i), forked()) for i in range(len(given))]  # type: ignore[misc]
        is_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        process = GeneratorStates.now(torch.device("cuda" if is_cuda else "cpu"))
        try:
            for participant in participants:
                participant.start()
            while waiting := [one for one in participants if one.request is not None]:
                self._answer(waiting)
        finally:
            for participant in participants:
                participant.stop()
            for participant in participants:
                participant.join()
            process.restore()
        return found

    def _answer(self, waiting: Sequence[Participant]) -> None:
        """Compute the runs that threads wait for, and let them run on."""
        groups: dict[Hashable, list[Participant]] = {}
        for one in waiting:
            assert one.request is not None
            groups.setdefault(one.request.shape, []).append(one)
        for shape, group in groups.items():
            results: Sequence[Any] = [None]  # to be computed alone
            if len(group) > 1:
                try:
                    results = Together(group, self._known[len(group), shape]).compute()
                except Exception as error:
                    results = [error for _ in group]
            for one, result in zip(group, results, strict=True):
                one.answer(result)
