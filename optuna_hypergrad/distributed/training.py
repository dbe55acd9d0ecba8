"""One training run in forward mode, its tangents divided among ranks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from optuna_hypergrad import autodiff
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff import Cost, Growth, Hypergradient, Update
from optuna_hypergrad.autodiff.data import Batch, Batches
from optuna_hypergrad.autodiff.forward import TangentObserver
from optuna_hypergrad.autodiff.hparams import RunHparams
from optuna_hypergrad.autodiff.loss import LossFn
from optuna_hypergrad.autodiff.tangents import TangentSchedule, Truncation
from optuna_hypergrad.autodiff.updates import Hparam
from optuna_hypergrad.autodiff.updates.protocol import check_update, checked_hparams
from optuna_hypergrad.autodiff.weights import FlatWeights
from optuna_hypergrad.distributed.ranks import Ranks, join

_COMPARISONS = 100  # of the ranks' losses during a run
_SILENT = ("average", "clip_gradients", "clip_products", "estimate", "statistics")
"""Options that change the result without changing a training loss."""


def hypergradient(
    model: nn.Module,
    loss_fn: LossFn,
    update: Update,
    batches: Batches,
    validation: Batch | Iterable[Batch],
    *,
    steps: int,
    mode: Literal["auto", "forward"] = "auto",
    hypers: Mapping[str, Hparam] | None = None,
    learn: Collection[str] | bool | None = None,
    truncate: float = 0.0,
    truncation: Truncation = "leading",
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = False,
    **options: Any,
) -> Hypergradient:
    """``autodiff.hypergradient`` with the tangents of forward mode divided among ranks.

    Every rank calls this with the same model, data, hyperparameters and random seeds. All train
    the same run, and each propagates the tangents of its share of the parameters. The result is
    that of one process up to rounding, and with one rank it *is* that of one process.

    The ranks compare their losses at about a hundred steps, so that a rank that has died or raised,
    or trains on other batches, is noticed during the run.

    Args:
        model: See ``autodiff.hypergradient``, as for all arguments that are not listed here.
        loss_fn: The training loss.
        update: The inner update.
        batches: The same on all ranks, in the same order.
        validation: The same on all ranks.
        steps: Number of training steps.
        mode: ``"auto"`` or ``"forward"``: forward mode with more than one rank. Reverse mode takes
            one Hessian product a step for any number of parameters, so there is nothing to divide.
        hypers: Hyperparameters of the loss.
        learn: Parameters to differentiate, by all ranks together.
        truncate: Fraction of each window's steps at which tangents stand still.
        truncation: ``"leading"`` or ``"alternate"`` steps.
        on_step: Called on every rank.
        progress: Show a progress bar on rank 0.
        options: All other arguments of ``autodiff.hypergradient``.

    Returns:
        The same on all ranks: the gradient by all parameters, the Hessian products of all ranks,
        the time of the slowest rank, and the memory of the one that took most.

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
    if mode not in ("auto", "forward"):
        raise ValueError(
            f"mode must be 'auto' or 'forward' for ranks, got {mode!r}; reverse mode costs the "
            "same for any number of parameters, so use autodiff.hypergradient."
        )
    ranks = join()
    with ranks.together():
        check_update(update)
        learned = RunHparams(
            update.hypers, checked_hparams(hypers or {}), learn, checked_count("steps", steps)
        )
        counts = count_products(TangentSchedule(learned, truncate, truncation), steps)
        weights = FlatWeights(model).read()
        settings: dict[str, Any] = {"steps": steps, "truncate": truncate, "truncation": truncation}
        settings |= {name: options.get(name) for name in _SILENT}
        ranks.agree("the start of a training", _run_facts(learned, weights, settings))
        comparison = LossComparison(ranks, steps, torch.finfo(weights.dtype).eps ** 0.5, on_step)
        result = autodiff.hypergradient(
            model,
            loss_fn,
            update,
            batches,
            validation,
            steps=steps,
            mode="forward" if ranks.size > 1 else mode,
            hypers=hypers,
            learn=learn,
            share=divide(counts, ranks.size)[ranks.rank],
            truncate=truncate,
            truncation=truncation,
            on_step=comparison,
            progress=progress and ranks.is_first,
            **options,
        )
        if ranks.size == 1:
            return result
        comparison.compare("the validation loss", result.loss)
        part = asdict(replace(result, state=(), growth=None))  # all ranks have the same state
        if result.growth is not None:
            growth = result.growth
            part["growth"] = [growth.per_step.tolist(), growth.damping.tolist(), growth.trust]
        return _combined(ranks.gather("the result of a training", part), learned.names, result)


def count_products(tangents: TangentSchedule, steps: int) -> dict[str, int]:
    """Number of Hessian products of each tangent in a run of ``steps`` steps."""
    tangents = tangents.restarted()
    counts = dict.fromkeys(tangents.names, 0)
    for step in range(steps):
        active = set(tangents.active_at(step).rows)
        for name, row in tangents.rows.items():
            counts[name] += row in active
    return counts


def divide(work: Mapping[str, int], size: int) -> list[list[str]]:
    """Divide names into shares of about equal work: the largest first, to the smallest share.

    Args:
        work: By name.
        size: Number of shares.

    Reference:
        R. L. Graham (1969). Bounds on multiprocessing timing anomalies. SIAM J. Appl. Math. 17.

    Example:
        >>> divide({"lr_0": 30, "lr_1": 20, "lr_2": 10, "momentum": 30}, 2)
        [['lr_0', 'lr_1'], ['momentum', 'lr_2']]
        >>> divide({"lr": 10}, 2)
        [['lr'], []]
    """
    shares: list[list[str]] = [[] for _ in range(size)]
    loads = [0] * size
    for name in sorted(work, key=lambda name: -work[name]):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += work[name]
    return shares


class LossComparison:
    """The ``on_step`` of a rank: calls the user's, and compares losses among ranks now and then.

    Losses may differ by rounding: ``tolerance`` bounds what it amounts to in the course of a run,
    as a fraction of a loss. A loss that is the small difference of large numbers rounds more
    coarsely, so a hundred times ``tolerance ** 2``, the machine epsilon, of the largest loss so far
    counts as rounding too.
    """

    def __init__(
        self,
        ranks: Ranks,
        steps: int,
        tolerance: float,
        on_step: Callable[[int, float], None] | None,
    ) -> None:
        self._ranks, self._every, self._on_step = ranks, max(steps // _COMPARISONS, 1), on_step
        self._tolerance, self._scale = tolerance, 0.0

    def __call__(self, step: int, loss: float) -> None:
        if self._on_step is not None:
            self._on_step(step, loss)
        if step % self._every == 0:
            self.compare(f"the training loss of step {step}", loss)

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Let the user's ``on_step`` observe the tangents of all ranks, if it can."""
        if isinstance(self._on_step, TangentObserver):
            place = "the norm of the tangents"
            self._on_step.attach(lambda: _largest(self._ranks.gather(place, tangent_norm())))

    def compare(self, name: str, loss: float) -> None:
        """Raise a RankError on all ranks if they differ in a loss."""
        losses = self._ranks.gather(name, loss)
        self._scale = max([self._scale, *(abs(one) for one in losses if math.isfinite(one))])
        for rank, other in enumerate(losses):
            if not self._are_alike(losses[0], other):
                raise self._ranks.differ(name, losses[0], rank, other)

    def _are_alike(self, one: float, other: float) -> bool:
        if math.isfinite(one) and math.isfinite(other):
            rounding = max(abs(one), abs(other)) + 100 * self._tolerance * self._scale
            return abs(one - other) <= self._tolerance * rounding
        return not math.isfinite(one) and not math.isfinite(other)


def _run_facts(learned: RunHparams, weights: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same on all ranks before the first step."""
    values = {f"{name} of the {owner}": str(value) for (owner, name), value in learned.all.items()}
    digest = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()
    return {
        **{name: str(setting) for name, setting in settings.items()},
        **values,
        "the learned parameters": learned.names,
        "the checksum of the initial weights": digest[:16],
    }


def _largest(norms: Sequence[float]) -> float:
    return float(np.max(norms))  # NaN if one is


def _combined(
    parts: Sequence[Mapping[str, Any]], names: Collection[str], own: Hypergradient
) -> Hypergradient:
    """The result of all ranks from that of each."""
    found = {name: value for part in parts for name, value in part["gradient"].items()}
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
        growth=_merged_growth([part["growth"] for part in parts if part["growth"]]),
        clipped=clipped / max(products, 1),
        tangent_norm=_largest([part["tangent_norm"] for part in parts]),
        cost=Cost(max(cost.seconds for cost in costs), max(held) if held else None),
    )


def _merged_growth(parts: Sequence[Any]) -> Growth | None:
    """The largest growth of the tangents of all ranks, and the least trust."""
    if not parts:
        return None
    per_step, damping, trust = zip(*parts, strict=True)
    least = {name: min(one[name] for one in trust) for name in trust[0]}
    return Growth(np.max(per_step, axis=0), np.mean(damping, axis=0), least)
