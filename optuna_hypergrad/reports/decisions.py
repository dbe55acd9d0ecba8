"""What objectives ask about a trial: its seed, and whether its hypergradient is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from optuna_hypergrad.reports.arrays import attributes_of, names_in
from optuna_hypergrad.reports.attributes import current_system_attrs
from optuna_hypergrad.reports.claims import Claim, read_claim
from optuna_hypergrad.reports.objective import check_trial
from optuna_hypergrad.reports.proposals import Proposal, read_proposal
from optuna_hypergrad.reports.segments import Segment, read_segment


def _decision(number: int, attributes: Mapping[str, Any]) -> Proposal | Claim | Segment | None:
    """What a sampler of this package decided about a trial, by its attributes."""
    for read in (read_proposal, read_claim, read_segment):
        decision: Proposal | Claim | Segment | None = read(number, attributes)
        if decision is not None:
            return decision
    return None


def wants_hypergradient(trial: BaseTrial) -> bool:
    """Whether the sampler of a trial wants its hypergradient.

    A hypergradient costs several plain trainings. Both samplers decide for each trial whether it
    is worth that: with few hyperparameters the loss alone often tells as much. Other samplers of
    Optuna have no use for one. Pass the answer on as ``learn``, and a trial without costs as much
    as a plain training; ``report_hypergradient`` then reports nothing. Objectives that do not ask
    may always report, and those whose hypergradients cost little should.

    Args:
        trial: A running trial, a finished one, or one that ranks share.

    Returns:
        True for ``GradientSampler(strategy="sign_descent")``; with its Gaussian process it depends
        on the noise found. For ``PopulationSampler``, whether members use hypergradients, with
        ``mutation="surrogate"`` only from 12 numeric hyperparameters on. With any sampler if the
        trial has suggested an array (``suggest_array``): ask after that.

    Raises:
        ValueError: If ``trial`` is not an Optuna trial.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, wants_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=GradientSampler(strategy="sign_descent"))
        >>> wants_hypergradient(study.ask())
        True
        >>> wants_hypergradient(optuna.create_study().ask())
        False
    """
    check_trial(trial)
    attributes = attributes_of(trial)
    if names_in(attributes):
        return True
    decision = _decision(trial.number, attributes)
    if isinstance(decision, Proposal | Segment):
        return decision.wants_hypergradient
    return decision is not None


def trial_seed(trial: BaseTrial) -> int:
    """A seed of the trial's own, for its initial weights and the order of its data.

    It derives from the sampler's seed and the trial's number, so that replicates of one outer
    step and members of one generation differ, and a rerun of the study repeats them. With other
    samplers it derives from the number alone.

    Args:
        trial: A running trial, a finished one, or one that ranks share.

    Returns:
        An integer in [0, 2³²).

    Raises:
        ValueError: If ``trial`` is not an Optuna trial.

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
    decision = _decision(trial.number, current_system_attrs(trial))
    entropy = [0 if decision is None else decision.seed, trial.number]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
