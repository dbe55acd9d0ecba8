"""ConsensusPruner: ends replicates that can change nothing any more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_positive
from optuna_hypergrad.reports import read_claim, read_constraints, write_superfluous
from optuna_hypergrad.samplers.gradient.chains import Chain
from optuna_hypergrad.samplers.gradient.sampler import GradientSampler
from optuna_hypergrad.samplers.gradient.steps import Claimed, same_point, stood_on
from optuna_hypergrad.samplers.studies import sampler_of


class ConsensusPruner(BasePruner):
    """Prune replicates that can no longer change the sign of any hyperparameter of their step.

    ``GradientSampler`` gives a worker that finds the trial of an outer step running a replicate of
    it. This pruner ends a replicate once its step is decided: as many others as
    ``GradientSampler(n_replicates=…)`` asks for have finished, or a later step stands on them.
    With several replicates a step, it also ends those that are outstanding once the finished ones
    settle it: no sum of hypergradients would change its sign by outstanding ones of at most
    ``margin`` times the largest absolute value seen of that parameter, and more than half of
    all replicates have ended well. The step is then decided by those that have finished. Trials
    with constraints do not settle a step so.

    A replicate pruned so does not count as diverged, nor as anything else. Enqueued trials are not
    pruned, nor is anything of another sampler. Objectives must
    report now and then, with ``watch`` or ``trial.report``, to be asked about; what they report is
    not looked at.

    Args:
        margin: Bound on the hypergradients of outstanding replicates. With 1, two of three that
            agree in all signs settle a step. ``math.inf`` prunes only what is decided.

    Raises:
        ValueError: If ``margin`` is no positive number.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import ConsensusPruner, GradientSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> sampler = GradientSampler(seed=0, n_replicates=3)
        >>> study = optuna.create_study(sampler=sampler, pruner=ConsensusPruner())
        >>> trials = [study.ask() for _ in range(3)]                  # of three workers
        >>> for trial in trials:
        ...     x = trial.suggest_float("x", -1, 1)
        ...     trial.report(1.0, step=0)
        >>> for trial, slope in zip(trials[:2], [0.3, 0.2]):
        ...     report_hypergradient(trial, {"x": slope})
        ...     _ = study.tell(trial, 1.0)
        >>> trials[2].should_prune()                                  # 0.3 + 0.2 − 0.3 > 0
        True
    """

    def __init__(self, margin: float = 1.0) -> None:
        check_positive("margin", margin)
        self._margin = float(margin)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is a replicate that can change nothing; False before its first report.

        If so, that is stored with the trial, for the sampler to know it from one that diverged.
        """
        sampler = sampler_of(study, GradientSampler)
        claim = read_claim(trial.number, trial.system_attrs)
        if sampler is None or claim is None or trial.last_step is None:
            return False
        with sampler.memory.reading(study) as table:
            chain, n_replicates = table.chain(claim.chain), table.rule.n_replicates
        own = Claimed(trial, claim, None)
        if own.is_enqueued or not self._is_superfluous(own, chain, n_replicates):
            return False
        write_superfluous(study._storage, trial._trial_id, trial.number)
        return True

    def _is_superfluous(self, own: Claimed, chain: Chain, n_replicates: int) -> bool:
        step = own.claim.step
        if step < chain.decided:
            return _is_replicated(own, _deciding(chain, step))
        finished = [one for one in chain.steps[step] if one.decides]
        return _is_replicated(own, finished) and _is_settled(finished, n_replicates, self._margin)


def _deciding(chain: Chain, step: int) -> Sequence[Claimed]:
    """The trials that decided a step."""
    later = chain.steps[step + 1] if step + 1 < len(chain.steps) else ()
    return stood_on(chain.steps, later[0].claim) if later else chain.used


def _is_replicated(own: Claimed, finished: Sequence[Claimed]) -> bool:
    """Whether others have ended well at the same point; three failures decide a step as well."""
    return any(one.decides and same_point(one.trial, own.trial) for one in finished)


def _is_settled(finished: Sequence[Claimed], n_replicates: int, margin: float) -> bool:
    """Whether the outstanding replicates of a step can neither turn a sign nor make it diverge."""
    if any(read_constraints(one.trial) for one in finished):
        return False  # the mean constraints decide which hypergradient is followed
    sound = [one for one in finished if not one.diverged]
    gradients = [one.gradient or {} for one in sound]
    names = {name for gradient in gradients for name in gradient}
    by_name = ([gradient[n] for gradient in gradients if n in gradient] for n in names)
    return 2 * len(sound) > n_replicates and all(
        _keeps_sign(values, n_replicates - len(values), margin) for values in by_name
    )


def _keeps_sign(values: Sequence[float], outstanding: int, margin: float) -> bool:
    """Whether the sum keeps its sign, whatever is outstanding; zeros stay zeros."""
    largest = max(map(abs, values))
    return largest == 0 or abs(math.fsum(values)) > outstanding * margin * largest
