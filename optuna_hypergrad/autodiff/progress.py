"""What is told of a run while it trains: to a terminal, and to who watches it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from tqdm.auto import tqdm

PRODUCT = 1.5  # training steps; a Hessian product costs one to two of them


class Progress:
    """One bar for all of an outer step: training, steps that are run again, and going back.

    It is filled by what steps cost and not by their number, so that the time it foretells is that
    of the whole outer step: a plain training step counts 1, a Hessian product ``PRODUCT``. That is
    an estimate, which the pace of going back corrects as soon as it is seen. The bar is shown on a
    terminal and in a notebook, nowhere else, and is closed with its ``with`` block.

    Args:
        shown: Whether there is to be a bar at all.

    Example:
        >>> with Progress(shown=False) as bar:
        ...     bar.expect(2.0)
        ...     bar.phase("training", 2)
        ...     bar.step(1.0)
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: tqdm[NoReturn] | None = None
        self._spent, self._expected = 0.0, 1.0
        self._phase, self._done, self._steps = "", 0, 0
        self._loss: Tensor | None = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr is not None and not sys.stderr.closed:
            bar = self._open.enter_context(_new_bar())
            self._bar = None if bar.disable else bar
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def seen(self) -> bool:
        """Whether there is a bar to be seen; without one, nothing here needs to be worked out."""
        return self._bar is not None

    def expect(self, cost: float) -> None:
        """What all of the outer step will cost, in plain training steps."""
        self._expected = cost

    def phase(self, name: str, steps: int) -> None:
        """A part of so many steps begins."""
        self._phase, self._done, self._steps = name, 0, steps
        if self._bar is not None:
            self._tell_loss(self._bar)
            self._tell_phase(self._bar)
            self._bar.refresh()

    def step(self, cost: float, loss: Tensor | None = None) -> None:
        """One step of the phase is done; its training loss is read when the bar is redrawn."""
        self._done += 1
        self._loss = self._loss if loss is None else loss
        self.spend(cost)

    def spend(self, cost: float) -> None:
        """Work is done that is no step of the phase, such as a step that is run again."""
        if self._bar is None:
            return
        self._spent += cost
        self._tell_phase(self._bar)
        if self._bar.update(self._spent / self._expected - self._bar.n):
            self._tell_loss(self._bar)  # waits for the device, so not at every step

    def _tell_phase(self, bar: tqdm[NoReturn]) -> None:
        bar.set_description_str(f"{self._phase} {self._done}/{self._steps}", refresh=False)

    def _tell_loss(self, bar: tqdm[NoReturn]) -> None:
        if self._loss is not None:
            bar.set_postfix_str(f"loss {float(self._loss):.4g}", refresh=False)


def _new_bar() -> tqdm[NoReturn]:
    """A bar from 0 to 1; silent where neither a terminal nor a notebook would show it."""
    from tqdm import auto, notebook

    in_notebook = issubclass(auto.tqdm, notebook.tqdm)  # whose streams say they are no terminal
    return auto.tqdm(
        total=1.0,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        miniters=0,  # redrawn by the clock alone: steps back take longer than training steps
        disable=False if in_notebook else None,
        leave=None,
    )


@runtime_checkable
class WatchesTangents(Protocol):
    """An ``on_step`` that wants to look at the tangents, too."""

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Take what gives the largest norm of a column of ∂w/∂λ whenever it is called."""
