"""A seed of each trial's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optuna_hypergrad.reports.attributes import check_trial, system_attrs_now
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.segments import read_segment

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def trial_seed(trial: BaseTrial) -> int:
    """A seed of the trial's own, for its initial weights and the order of its data.

    It derives from the sampler's seed and the trial's number, so that replicates of one outer
    step and students of one generation differ, and a rerun of the study repeats them. With other
    samplers it derives from the number alone.

    Args:
        trial: A running trial, a finished one, or one that ranks share.

    Returns:
        An integer in [0, 2³²).

    Raises:
        ValueError: If ``trial`` is not one.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, trial_seed
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> seeds = []
        >>> for _ in range(2):
        ...     study = optuna.create_study(sampler=GradientSampler(seed=0))
        ...     study.optimize(lambda trial: seeds.append(trial_seed(trial)) or 0.0, n_trials=2)
        >>> seeds[0] != seeds[1] and seeds[:2] == seeds[2:]
        True
    """
    check_trial(trial)
    attrs = system_attrs_now(trial)
    decided = read_claim(trial.number, attrs) or read_segment(trial.number, attrs)
    entropy = [0 if decided is None else decided.seed, trial.number]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
