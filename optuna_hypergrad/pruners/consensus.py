"""ConsensusPruner: ends replicates that can no longer change their outer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_positive
from optuna_hypergrad.reports.claims import read_claim, write_superfluous
from optuna_hypergrad.samplers.gradient.chains import Chain, same_point, used_by
from optuna_hypergrad.samplers.gradient.sampler import GradientSampler
from optuna_hypergrad.samplers.gradient.search import ClaimedTrial, is_enqueued_trial
from optuna_hypergrad.samplers.studies import sampler_of


class ConsensusPruner(BasePruner):
    """Prune replicates that can no longer change the sign of any hyperparameter of their step.

    ``GradientSampler`` gives a worker that finds the trial of an outer step running a replicate of
    it. This pruner ends a replicate once its step is decided: as many others as
    ``GradientSampler(n_replicates=…)`` asks for have finished, or a later step is based on them.
    With several replicates a step, it also ends outstanding ones once the finished ones settle the
    step: more than half of all replicates have ended well, and no sum of hypergradients would
    change its sign by outstanding ones of at most ``margin`` times the largest absolute value seen
    of that parameter. The finished ones then decide the step. A step whose
    trials have constraints is never settled early.

    A replicate pruned so is ignored by the search, and does not count as diverged. Enqueued trials
    are not pruned, nor are trials of other samplers. Objectives must report now and then, with
    ``watch`` or ``trial.report``, to be asked about; the reported values do not matter.

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
        >>> for trial, derivative in zip(trials[:2], [0.3, 0.2]):
        ...     report_hypergradient(trial, {"x": derivative})
        ...     _ = study.tell(trial, 1.0)
        >>> trials[2].should_prune()                                  # 0.3 + 0.2 − 0.3 > 0
        True
    """

    def __init__(self, margin: float = 1.0) -> None:
        check_positive("margin", margin)
        self._margin = float(margin)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is a replicate that can change nothing; False before its first report.

        That is stored with the trial, so that the sampler does not take it for a diverged one.
        """
        sampler = sampler_of(study, GradientSampler)
        claim = read_claim(trial.number, trial.system_attrs)
        if sampler is None or claim is None or trial.last_step is None or is_enqueued_trial(trial):
            return False
        with sampler.memory.reading(study) as table:
            chain, n_replicates = table.chain(claim.chain), table.rule.n_replicates
        if not self._is_superfluous(trial, claim.step, chain, n_replicates):
            return False
        write_superfluous(study._storage, trial._trial_id, trial.number)
        return True

    def _is_superfluous(
        self, trial: FrozenTrial, step: int, chain: Chain, n_replicates: int
    ) -> bool:
        if step < chain.n_decided:
            later = chain.steps[step + 1] if step + 1 < len(chain.steps) else ()
            used = used_by(chain.steps, later[0].claim) if later else chain.used
            return _is_replicated(trial, used)
        usable = [one for one in chain.steps[step] if one.is_usable]
        return _is_replicated(trial, usable) and _is_settled(usable, n_replicates, self._margin)


def _is_replicated(trial: FrozenTrial, finished: Sequence[ClaimedTrial]) -> bool:
    """Whether others have ended well at the same point; three failures also decide a step."""
    return any(one.is_usable and same_point(one.trial, trial) for one in finished)


def _is_settled(finished: Sequence[ClaimedTrial], n_replicates: int, margin: float) -> bool:
    """Whether outstanding replicates of a step can neither change a sign nor make it diverge."""
    if any(one.report.constraints for one in finished):
        return False  # the mean constraints decide which hypergradient is followed
    gradients = [one.report.gradient or {} for one in finished if not one.diverged]
    names = {name for gradient in gradients for name in gradient}
    by_name = ([gradient[n] for gradient in gradients if n in gradient] for n in names)
    return 2 * len(gradients) > n_replicates and all(
        _keeps_sign(values, n_replicates - len(values), margin) for values in by_name
    )


def _keeps_sign(values: Sequence[float], n_outstanding: int, margin: float) -> bool:
    """Whether the sum keeps its sign, whatever is outstanding; zeros stay zeros."""
    largest = max(map(abs, values))
    return largest == 0 or abs(math.fsum(values)) > n_outstanding * margin * largest
