"""Who carries which columns: the work of a forward-mode run, dealt out evenly."""

from __future__ import annotations

from collections.abc import Mapping

from optuna_hypergrad.autodiff.columns import Columns


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
