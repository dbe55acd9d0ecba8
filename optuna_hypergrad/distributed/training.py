"""Who carries which columns: the work of a forward-mode run, dealt out evenly.

Whether all ranks train the same run: what is compared at its start, and on the way.

One training run with its columns spread over ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optuna_hypergrad import autodiff
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff import Cost, Hypergradient, Update
from optuna_hypergrad.autodiff.hparams import RunHparams
from optuna_hypergrad.autodiff.loss import Batch, LossFn
from optuna_hypergrad.autodiff.progress import WatchesTangents
from optuna_hypergrad.autodiff.stream import Batches
from optuna_hypergrad.autodiff.tangents import Columns, Truncation
from optuna_hypergrad.autodiff.updates import Hparam
from optuna_hypergrad.autodiff.updates.protocol import check_update, checked_hparams
from optuna_hypergrad.autodiff.weights import FlatWeights
from optuna_hypergrad.distributed.ranks import Ranks, join


def work_of(columns: Columns, steps: int) -> dict[str, int]:
    """Hessian products that each column takes in a run: the steps from where it begins.

    Args:
        columns: The columns of the run, none of which has begun; they have ended afterwards.
        steps: Steps of the run.
    """
    work = dict.fromkeys(columns.names, 0)
    for step in range(steps):
        rows = set(columns.advance(step).rows)
        for name, row in columns.begun.items():
            work[name] += row in rows
    return work


def dealt(work: Mapping[str, int], size: int) -> list[list[str]]:
    """Shares of about the same work: the largest piece first, each to who has least so far.

    Args:
        work: By name.
        size: How many shares.

    Reference:
        R. L. Graham (1969). Bounds on multiprocessing timing anomalies. SIAM J. Appl. Math. 17.

    Example:
        >>> dealt({"lr_0": 30, "lr_1": 20, "lr_2": 10, "momentum": 30}, 2)
        [['lr_0', 'lr_1'], ['momentum', 'lr_2']]
        >>> dealt({"lr": 10}, 2)
        [['lr'], []]
    """
    shares: list[list[str]] = [[] for _ in range(size)]
    loads = [0] * size
    for name in sorted(work, key=lambda name: -work[name]):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += work[name]
    return shares


_MEETINGS = 100  # during a run


def facts(learned: RunHparams, weights: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same on all ranks before the first step; no loss need show ``settings``."""
    values = {f"{name} of the {owner}": str(hyper) for (owner, name), hyper in learned.all.items()}
    digest = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()
    return {
        **{name: str(setting) for name, setting in settings.items()},
        **values,
        "the learned parameters": learned.names,
        "the checksum of the initial weights": digest[:16],
    }


def largest(norms: Sequence[float]) -> float:
    """The largest of the ranks' norms; NaN where one is."""
    return float(np.max(norms))


class SameRun:
    """After a step: what the user wants then, and now and again whether all ranks train the same.

    Ranks that do have losses that differ by rounding; ``tolerance`` is what rounding can become
    in the course of a run, as a fraction of a loss. A loss that is the small difference of large
    numbers rounds more coarsely: a hundred times ``tolerance ** 2``, the machine epsilon, of the
    largest loss so far is rounding, too.
    """

    def __init__(
        self,
        ranks: Ranks,
        steps: int,
        tolerance: float,
        on_step: Callable[[int, float], None] | None,
    ) -> None:
        self._ranks, self._every, self._on_step = ranks, max(steps // _MEETINGS, 1), on_step
        self._tolerance, self._scale = tolerance, 0.0

    def __call__(self, step: int, loss: float) -> None:
        if self._on_step is not None:
            self._on_step(step, loss)
        if step % self._every == 0:
            self.compare(f"the training loss of step {step}", loss)

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Let what the user wants after a step watch the tangents of all ranks, if it does."""
        if isinstance(self._on_step, WatchesTangents):
            place = "the norm of the tangents"
            self._on_step.attach(lambda: largest(self._ranks.meet(place, tangent_norm())))

    def compare(self, name: str, loss: float) -> None:
        """Raise a RankError on all ranks if they differ in a loss."""
        losses = self._ranks.meet(name, loss)
        self._scale = max([self._scale, *(abs(one) for one in losses if math.isfinite(one))])
        for rank, other in enumerate(losses):
            if not self._alike(losses[0], other):
                raise self._ranks.differ(name, losses[0], rank, other)

    def _alike(self, one: float, other: float) -> bool:
        if math.isfinite(one) and math.isfinite(other):
            rounding = max(abs(one), abs(other)) + 100 * self._tolerance * self._scale
            return abs(one - other) <= self._tolerance * rounding
        return not math.isfinite(one) and not math.isfinite(other)


_SILENT = ("average", "clip_gradients", "clip_products", "statistics")
"""Options that change the result, though perhaps no training loss."""


def hypergradient(
    model: nn.Module,
    loss_fn: LossFn,
    update: Update,
    batches: Batches,
    validation: Batch | Iterable[Batch],
    *,
    steps: int,
    mode: str = "forward",
    hypers: Mapping[str, Hparam] | None = None,
    learn: Collection[str] | None = None,
    truncate: float = 0.0,
    truncation: Truncation = "leading",
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = False,
    **options: Any,
) -> Hypergradient:
    """``autodiff.hypergradient`` with the columns of forward mode spread over the ranks.

    Every rank calls this with the same model, data, hyperparameters and random seeds. All train
    the same run, each carries the tangents of its share of the parameters, and only the result is
    gathered: it is that of one process, to rounding. With one rank it *is* that of one process.

    The ranks meet at about a hundred steps of the run, so that one that has died or raised, or
    trains on other batches, is noticed on the way.

    Args:
        model: See ``autodiff.hypergradient``, as for all arguments that are not named here.
        loss_fn: The training loss.
        update: The inner update.
        batches: The same on all ranks, and in the same order.
        validation: The same on all ranks.
        steps: Number of training steps.
        mode: ``"forward"``. Reverse mode takes one Hessian product a step for any number of
            parameters, which leaves nothing to spread.
        hypers: Hyperparameters of the loss.
        learn: Parameters to differentiate, on all ranks together.
        truncate: Fraction of each window's steps at which tangents stand still.
        truncation: ``"leading"`` or ``"alternate"`` steps.
        on_step: Called on every rank.
        progress: Show a progress bar on rank 0.
        options: Everything else that ``autodiff.hypergradient`` takes.

    Returns:
        The same on all ranks: the whole gradient, Hessian products of all, the cost of the rank
        that took longest, and the memory of the one that took most.

    Raises:
        RankError: If a rank is gone or has raised, or the ranks train different runs; on all
            ranks, and it names the difference.
        ValueError: If an argument is out of range; the message names it.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD
        >>> from optuna_hypergrad.distributed import hypergradient
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        >>> x = torch.ones(1, 1)
        >>> hypergradient(model, loss, SGD(Schedule("lr", [0.5])), [x], x, steps=2).gradient
        {'lr': -0.25}
    """
    if mode != "forward":
        raise ValueError(
            f"mode must be 'forward' to be spread over ranks, got {mode!r}; reverse mode costs the "
            "same for any number of parameters, so use autodiff.hypergradient."
        )
    ranks = join()
    with ranks.together():
        check_update(update)
        learned = RunHparams(
            update.hypers, checked_hparams(hypers or {}), learn, checked_count("steps", steps)
        )
        work = work_of(Columns(learned, truncate, truncation), steps)
        weights = FlatWeights(model).read()
        settings: dict[str, Any] = {"steps": steps, "truncate": truncate, "truncation": truncation}
        settings |= {name: options.get(name) for name in _SILENT}
        ranks.agree("the start of a training", facts(learned, weights, settings))
        same = SameRun(ranks, steps, torch.finfo(weights.dtype).eps ** 0.5, on_step)
        result = autodiff.hypergradient(
            model,
            loss_fn,
            update,
            batches,
            validation,
            steps=steps,
            hypers=hypers,
            learn=learn,
            share=dealt(work, ranks.size)[ranks.rank],
            truncate=truncate,
            truncation=truncation,
            on_step=same,
            progress=progress and ranks.is_first,
            **options,
        )
        same.compare("the validation loss", result.loss)
        told = asdict(replace(result, state=()))  # which all ranks have
        return _combined(ranks.meet("the result of a training", told), learned.names, result)


def _combined(
    parts: Sequence[Mapping[str, Any]], names: Collection[str], own: Hypergradient
) -> Hypergradient:
    """The result of all ranks from that of each."""
    found = {name: slope for part in parts for name, slope in part["gradient"].items()}
    products = sum(part["products"] for part in parts)
    clipped = sum(part["clipped"] * part["products"] for part in parts)
    costs = [Cost(**part["cost"]) for part in parts]
    held = [cost.bytes for cost in costs if cost.bytes is not None]
    return replace(
        own,
        gradient={name: found[name] for name in names},
        loss=parts[0]["loss"],
        train_losses=parts[0]["train_losses"],
        products=products,
        clipped=clipped / max(products, 1),
        tangent_norm=largest([part["tangent_norm"] for part in parts]),
        cost=Cost(max(cost.seconds for cost in costs), max(held) if held else None),
    )
