"""What runs beside a training, and must leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from optuna_hypergrad.autodiff.carried import Carried
from optuna_hypergrad.autodiff.replay.randomness import Randomness
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


@contextmanager
def undisturbed(
    run: Run, step: int, point: Carried, generators: Sequence[torch.Generator]
) -> Iterator[None]:
    """Within it, ``on_step`` may draw random numbers; it must not change the model.

    Raises:
        ValueError: If it changed weights, frozen parameters or buffers; the message names one.
    """
    before, versions = Randomness.now(run.weights.device, generators), run.state_versions()
    yield
    before.restore()  # so that the training does not depend on what it drew
    run.check_weights(step, point, "on_step")
    run.weights.check_trainable()
    changed = [name for name, version in run.state_versions().items() if versions[name] != version]
    if changed:
        raise ValueError(
            f"on_step: it changed {changed[0]!r} of the model, which later steps may depend on and "
            "hypergradients do not see. Change it in loss_fn, or name it in constant_buffers."
        )
