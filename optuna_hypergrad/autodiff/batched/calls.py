"""A function of a run, called for R runs at once by the operations that it was seen to call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.batched.generators import RunGenerators
from optuna_hypergrad.autodiff.batched.stacking import StackedTrace
from optuna_hypergrad.autodiff.recompute.comparison import difference
from optuna_hypergrad.autodiff.tracing import Trace, traced
from optuna_hypergrad.logger import logger

_MOST = 4  # stacked traces of a function: for batches of other shapes, and for other constants
_MANY, _FEW_DIFFER = 64, 1e-2  # sums of fewer numbers may differ more by rounding, relatively
_Found = TypeVar("_Found")


class Call(NamedTuple):
    """The function for one run.

    Args:
        function: Returns tensors, and anything else that is the same at each call.
        inputs: The tensors that it uses and that differ from call to call.
    """

    function: Callable[[], tuple[Sequence[Tensor], Any]]
    inputs: Sequence[Tensor]


class Found(NamedTuple):
    """The results of all runs.

    Args:
        tensors: Of a first dimension of R.
        others: What else each run returned.
    """

    tensors: list[Tensor]
    others: list[Any]


class Runs(Protocol):
    """R runs, each of which can call a function with its own state."""

    @property
    def generators(self) -> Sequence[RunGenerators]:
        """Those of each run."""
        ...

    def alone(self, i: int, function: Callable[[], _Found]) -> _Found | None:
        """Call a function for a run, whose model it may use and change; None if it has failed."""
        ...

    def state(self) -> object:
        """What functions may change besides their results."""
        ...

    def restore(self, state: object) -> None:
        """Put it back."""
        ...

    def is_at(self, state: object) -> bool:
        """Whether it is as it was, to rounding."""
        ...


Known = dict[Hashable, tuple[StackedTrace, list[Any]]]
"""Traces by kind, with what else the functions returned."""


class StackedCalls:
    """Calls a function for all runs: one by one at the first calls of a kind, later at once.

    Args:
        runs: The runs.
        known: Traces of earlier runs, to which those that others can use are added.
        records_all: Whether the operations of every run are recorded, to see their constants;
            otherwise those of the first run that succeeds stand for all.
    """

    def __init__(self, runs: Runs, known: Known, *, records_all: bool) -> None:
        self._runs, self._lasting, self._records_all = runs, known, records_all
        self._known: Known = {}
        self._n_calls: Counter[Hashable] = Counter()  # of each kind
        self._is_off = False

    def __call__(
        self,
        kind: Hashable | None,
        inputs: Sequence[Tensor],
        is_stacked: Sequence[bool],
        call: Callable[[int], Call],
    ) -> Found:
        """The results.

        Args:
            kind: What is the same for calls with the same operations; None if there is nothing.
            inputs: Those of all runs, in the order of ``Call.inputs``.
            is_stacked: Whether the first dimension of each input is R; else all runs share it.
            call: The function of a run.
        """
        if self._is_off or kind is None:
            return self._one_by_one(call)
        self._n_calls[kind] += 1
        if self._n_calls[kind] == 1 and len(self._n_calls) <= _MOST:
            return self._recorded(kind, inputs, is_stacked, call)
        if kind not in self._known:  # it could not be recorded
            return self._one_by_one(call)
        trace, others = self._known[kind]
        if not trace.is_valid():
            self._give_up("tensors that they use have been changed")
            return self._one_by_one(call)
        if self._n_calls[kind] > 2:
            return Found(trace(inputs), others)
        before = self._runs.state()
        expected = self._one_by_one(call)
        found = self._compared(trace, inputs, expected, before)
        if found is None:
            self._give_up("their operations change from step to step")
        return found or expected

    def is_known(self, kind: Hashable | None) -> bool:
        """Whether the next call of a kind is computed at once."""
        return not self._is_off and kind in self._known and self._n_calls[kind] > 1

    def draws(self, kind: Hashable | None) -> bool:
        """Whether it draws random numbers then."""
        return kind in self._known and self._known[kind][0].draws

    def _one_by_one(self, call: Callable[[int], Call]) -> Found:
        return self._each(lambda i: call(i).function())

    def _each(self, function: Callable[[int], tuple[Sequence[Tensor], Any]]) -> Found:
        runs = range(len(self._runs.generators))
        each = [self._runs.alone(i, lambda i=i: function(i)) for i in runs]  # type: ignore[misc]
        tensors = stacked([None if one is None else one[0] for one in each])
        others = [one[1] for one in each if one is not None]
        return Found(tensors, [others[0] if one is None else one[1] for one in each])

    def _recorded(
        self,
        kind: Hashable,
        inputs: Sequence[Tensor],
        is_stacked: Sequence[bool],
        call: Callable[[int], Call],
    ) -> Found:
        """One by one; the trace is for later calls."""
        before = self._runs.state()
        found, traces = self._traced(call, first_only=not self._records_all)
        if any(isinstance(trace, Trace) and trace.captures for trace in traces):
            self._runs.restore(before)  # each run may use tensors of its own
            found, traces = self._traced(call, first_only=False)
        after = self._runs.state()
        try:
            trace = self._stacked(kind, traces, inputs, is_stacked)
        except Exception as error:  # whatever torch raises for operations that it cannot stack
            _log(str(error).splitlines()[0])
            return found
        finally:
            self._runs.restore(after)
        checked = self._compared(trace, inputs, found, before)
        if checked is None:
            _log("their results differ when they are computed as one")
            return found
        self._known[kind] = trace, found.others
        if trace.lasts:
            self._lasting[kind] = self._known[kind]
        return checked

    def _stacked(
        self,
        kind: Hashable,
        traces: Sequence[Trace | str],
        inputs: Sequence[Tensor],
        is_stacked: Sequence[bool],
    ) -> StackedTrace:
        """The trace of earlier runs, if it has the same operations, or a new one."""
        known = self._lasting.get(kind)
        if known is not None and known[0].is_of(traces):
            return known[0]
        return StackedTrace(traces, inputs, is_stacked, self._runs.generators)

    def _traced(
        self, call: Callable[[int], Call], first_only: bool
    ) -> tuple[Found, list[Trace | str]]:
        """One by one, with the trace of each run, or of the first of them for all."""
        traces: dict[int, Trace | str] = {}

        def record(i: int) -> tuple[Sequence[Tensor], Any]:
            function, own = call(i)
            if first_only and traces:
                return function()

            def twice() -> tuple[Sequence[Tensor], tuple[Sequence[Tensor], Any]]:
                found = function()
                return found[0], found

            traces[i], found = traced(twice, own, [])
            return found

        found = self._each(record)
        stand_in = next(iter(traces.values()))
        return found, [traces.get(i, stand_in) for i in range(len(self._runs.generators))]

    def _compared(
        self, trace: StackedTrace, inputs: Sequence[Tensor], expected: Found, before: object
    ) -> Found | None:
        """By a trace, so that the same step gives the same bits again; None if it is wrong.

        Args:
            trace: The trace.
            inputs: Its inputs.
            expected: The results one by one.
            before: The state that they began with.
        """
        after = self._runs.state()
        self._runs.restore(before)
        try:
            found = trace(inputs)
        except Exception as error:  # whatever torch raises for operations that it cannot stack
            logger.info(f"A batch of runs: {str(error).splitlines()[0]}.")
        else:
            pairs = zip(found, expected.tensors, strict=True)
            are_same = all(is_same(*rows) for pair in pairs for rows in zip(*pair, strict=True))
            if are_same and self._runs.is_at(after):
                return Found(found, expected.others)
        self._runs.restore(after)
        return None

    def _give_up(self, reason: str) -> None:
        _log(reason)
        self._is_off = True


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Whether two results of a run are equal but for rounding, which weighs more in few numbers."""
    bound = torch.finfo(expected.dtype).eps ** 0.5 if expected.numel() >= _MANY else _FEW_DIFFER
    return difference(found, expected) <= bound


def _log(reason: str) -> None:
    logger.info(f"Runs of a batch are computed one by one, which takes longer: {reason}.")


def stacked(results: Sequence[Sequence[Tensor] | None]) -> list[Tensor]:
    """Results of all runs as one; NaN for those that are None."""
    like = next(one for one in results if one is not None)
    missing = [torch.full_like(one, torch.nan) for one in like]
    rows = [missing if one is None else one for one in results]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]
