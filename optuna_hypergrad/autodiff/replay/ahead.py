"""A look at the first steps of a run, before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from optuna_hypergrad.autodiff.replay.stream import Stream
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.run import Run


@contextmanager
def looking_ahead(run: Run, stream: Stream) -> Iterator[Surrounding]:
    """Within it, steps may be taken; afterwards the run and its batches are at the start again."""
    surrounding = Surrounding(run.objective.model, run.weights.device, stream.generators)
    before, given = surrounding.now(), run.weights.read()
    stream.looking = True
    try:
        yield surrounding
    finally:
        stream.looking = False
        run.weights.write(given)
        stream.rewind()
        surrounding.restore(before)
