"""The progress bar of a run with hypergradients."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from torch import Tensor

if TYPE_CHECKING:
    from tqdm.auto import tqdm

PRODUCT = 1.5  # training steps; a Hessian product costs one to two of them


class Progress:
    """One bar for a whole run: training, steps that are computed again, and going back.

    The bar advances by cost, not by number of steps, so its remaining time is that of the whole
    run: a training step counts 1, a Hessian product ``PRODUCT``. It is shown on a terminal and in
    a notebook, nowhere else, and closes with its ``with`` block.

    Example:
        >>> with Progress() as bar:
        ...     bar.expect(2.0)
        ...     bar.phase("training", 2)
        ...     bar.step(1.0)
    """

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._spent, self._expected = 0.0, 1.0
        self._phase, self._done, self._steps = "", 0, 0
        self._loss: Tensor | None = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        if sys.stderr is not None and not sys.stderr.closed:
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
    def is_shown(self) -> bool:
        """Whether there is a bar on the screen."""
        return self._bar is not None

    def expect(self, cost: float) -> None:
        """Set the cost of the whole run, in training steps."""
        self._expected = cost

    def phase(self, name: str, steps: int) -> None:
        """Begin a phase of ``steps`` steps."""
        self._phase, self._done, self._steps = name, 0, steps
        if self._bar is not None:
            self._write_loss(self._bar)
            self._write_phase(self._bar)
            self._bar.refresh()

    def step(self, cost: float, loss: Tensor | None = None) -> None:
        """Count a step of the phase; its training loss is read when the bar is redrawn."""
        self._done += 1
        self._loss = self._loss if loss is None else loss
        self.spend(cost)

    def spend(self, cost: float) -> None:
        """Count work that is not a step of the phase, such as a step that is computed again."""
        if self._bar is None:
            return
        self._spent += cost
        self._write_phase(self._bar)
        if self._bar.update(self._spent / self._expected - self._bar.n):
            self._write_loss(self._bar)  # waits for the device, so not at every step

    def _write_phase(self, bar: tqdm[NoReturn]) -> None:
        bar.set_description_str(f"{self._phase} {self._done}/{self._steps}", refresh=False)

    def _write_loss(self, bar: tqdm[NoReturn]) -> None:
        if self._loss is not None:
            bar.set_postfix_str(f"loss {float(self._loss):.4g}", refresh=False)


def _new_bar() -> tqdm[NoReturn]:
    """A bar from 0 to 1; disabled if neither a terminal nor a notebook shows it."""
    from tqdm import auto, notebook

    in_notebook = issubclass(auto.tqdm, notebook.tqdm)  # whose streams are not terminals
    return auto.tqdm(
        total=1.0,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        miniters=0,  # redrawn by the clock alone: steps back take longer than training steps
        disable=False if in_notebook else None,
        leave=None,
    )
