"""One training run with its columns spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from optuna_hypergrad import autodiff
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff import Cost, Hypergradient, Update
from optuna_hypergrad.autodiff.columns import Columns, Truncation
from optuna_hypergrad.autodiff.hypers import Hypers
from optuna_hypergrad.autodiff.objective import Batch, LossFn
from optuna_hypergrad.autodiff.replay.stream import Batches
from optuna_hypergrad.autodiff.updates import Hyper
from optuna_hypergrad.autodiff.updates.protocol import check_update, checked_hypers
from optuna_hypergrad.autodiff.weights import FlatWeights
from optuna_hypergrad.distributed.agreement import SameRun, facts, largest
from optuna_hypergrad.distributed.ranks import join
from optuna_hypergrad.distributed.shares import dealt, work_of

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
    hypers: Mapping[str, Hyper] | None = None,
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
        learned = Hypers(
            update.hypers, checked_hypers(hypers or {}), learn, checked_count("steps", steps)
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
