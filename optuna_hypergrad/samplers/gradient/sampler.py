"""GradientSampler: the Optuna glue around sign descent."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_hypergrad.arguments import check_kind, checked_count
from optuna_hypergrad.reports import (
    Claim,
    Report,
    Rule,
    read_claim,
    write_claim,
    write_drawn,
)
from optuna_hypergrad.reports.attributes import MOST
from optuna_hypergrad.samplers.base import CompletedSampler, ConstraintsFunc, Memory, propose
from optuna_hypergrad.samplers.describe import log_line
from optuna_hypergrad.samplers.gradient.chains import ChainSummary
from optuna_hypergrad.samplers.gradient.log import describe_end, describe_step
from optuna_hypergrad.samplers.gradient.steps import is_enqueued
from optuna_hypergrad.samplers.gradient.table import Table
from optuna_hypergrad.samplers.studies import (
    checked_seed,
    finished_as,
    held,
    maximizes,
    random_seed,
    stop,
)


class GradientSampler(CompletedSampler[Table]):
    """Search by hypergradients: one trial is one outer step of sign descent.

    Each trial trains with the hyperparameters it is given and reports the hypergradient of its
    loss (``report_hypergradient``). The next trial moves every hyperparameter against the sign of
    its hypergradient by a step size of its own, which is halved when the sign flips.

    The next proposal is a function of the stored trials alone. Any process with the same
    arguments goes on where another one stopped. Workers never wait: while the trial of an outer
    step runs, whoever asks gets a replicate of it, the same point with another ``trial_seed``. A
    step is decided by the mean hypergradient of its replicates that have finished, and replicates
    that finish later do not rewrite it. Failed trials are repeated; pruned ones (but for those that
    ``ConsensusPruner`` ends) and those with hypergradients that are not finite count as diverged.

    Feasible trials are better than infeasible ones, and of those the smaller total violation is
    better, as to Optuna's own samplers. A point that violates constraints is left along their
    hypergradients (``report_hypergradient(..., constraint=...)``). Where none of these is reported,
    or all are 0, an infeasible trial is rejected: parameters without hypergradients are drawn anew
    at its point, up to three times; if it stays infeasible, every step size is halved and the
    search returns to the best feasible point. While there is none, it follows the loss's
    hypergradient for as long as that lessens the violation, and then starts elsewhere.

    Parameters without hypergradients (categorical ones, ints, whatever is not reported) come from
    ``independent_sampler``, drawn anew for each outer step; a sampler that you pass keeps random
    state of its own, which a restart does not bring back.

    Args:
        seed: Seeds everything random; the same seed repeats a single-worker study. None draws one.
        safeguard: Fraction of the progress since the first trial that a trial's loss may fall
            behind the best one before it is rejected: the search returns to the best point,
            measures it once more, and takes smaller steps from there. Divergence is always
            rejected. None follows the paper, which rejects nothing, not even infeasible trials.
        start: Where the first chain starts: ``"range"`` (0 where a range spans it, else the
            middle), ``"best"`` (the best complete trial, of whatever sampler, at that time), or
            values by parameter or schedule name, with the rest as for ``"range"``.
        step_size: First step sizes by parameter or schedule name, in the parameter's unit or, for
            log ranges, in units of its natural logarithm. Others are a twentieth of their range.
        n_replicates: How many trials of the same point decide an outer step.
        n_chains: How many searches run side by side in the study. Chains after the first start at
            random points (with ``start="best"``, from the next best trials).
        independent_sampler: For the parameters without hypergradients. By default TPE, seeded
            for each outer step.
        constraints_func: Of a finished trial, its constraints, as Optuna's own samplers take it:
            the trial is feasible where none exceeds 0. For Optuna 4; deprecated there from 5 on in
            favour of ``Trial.set_constraint``, which needs no argument here.
        tolerance: A chain has converged when every step size is below this fraction of its range.
            A parameter that sits on its bound, had a hypergradient of 0 three times in a row, or
            none for ten times in a row, counts as settled. A chain also ends where ten trials of
            one point reported nothing.
        stop_when_converged: End ``study.optimize`` when all chains have converged, with an INFO
            line that says why. With ask-and-log_line there is no loop to end; see ``chains``.

    Raises:
        ValueError: If an argument is out of range; the message names it. Studies with several
            objectives raise it at the first parameter, as with Optuna's own samplers.

    Reference:
        "Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS), Algorithm 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -5, 5)
        ...     y = trial.suggest_float("y", 1e-3, 1e1, log=True)
        ...     report_hypergradient(trial, {"x": 2 * (x - 1), "y": 2 * (y - 2)})
        ...     return (x - 1) ** 2 + (y - 2) ** 2
        >>> sampler = GradientSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective, n_trials=25)
        >>> [round(study.best_params[name], 1) for name in ("x", "y")]
        [1.0, 2.0]
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        safeguard: float | None = Rule.safeguard,
        start: Literal["range", "best"] | Mapping[str, float] = "range",
        step_size: Mapping[str, float] | None = None,
        n_replicates: int = Rule.n_replicates,
        n_chains: int = 1,
        independent_sampler: BaseSampler | None = None,
        constraints_func: ConstraintsFunc | None = None,
        tolerance: float = Rule.tolerance,
        stop_when_converged: bool = True,
    ) -> None:
        self._from_best = start == "best"
        if isinstance(start, str):
            if start not in ("range", "best"):
                raise ValueError(f"start must be 'range', 'best' or a mapping, got {start!r}.")
            start = {}
        rule = Rule(safeguard, start, step_size or {}, n_replicates, tolerance)
        memory = Memory(partial(_new_table, rule))
        super().__init__(independent_sampler, memory, constraints_func)
        self._n_chains = checked_count("n_chains", n_chains, most=MOST)
        self._seed = checked_seed(seed)
        check_kind("stop_when_converged", stop_when_converged, bool, "True or False")
        self._stop_when_converged = stop_when_converged
        self._has_warned = False

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Claim an outer step for the trial; a retried trial keeps the one it inherited."""
        super().before_trial(study, trial)
        is_retry = read_claim(trial.number, trial.system_attrs) is not None
        if len(study.directions) > 1 or is_retry:
            return
        with self.memory.reading(study) as table:
            if not table.reports_nothing:
                claim = table.next_claim(trial.number, self._n_chains, self._seed, self._from_best)
                many = self._n_chains > 1
                write_claim(study._storage, trial._trial_id, claim, one_of_many=many)
                table.pending[trial.number] = claim
                log_line(lambda: _told(trial, claim, table, many, held(study)))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of the trial's outer step, completed by the independent sampler."""
        self._raise_error_if_multi_objective(study)
        step = self._step_of(study, trial, search_space)
        params = step.params
        rest = {name: dist for name, dist in search_space.items() if name not in params}
        if not rest:
            return params
        params |= propose(self._independent_for(step.entropy), study, trial, rest)
        if step.is_claimed:
            drawn = {name: dist.to_internal_repr(params[name]) for name, dist in rest.items()}
            write_drawn(study._storage, trial._trial_id, drawn)
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter that not every trial has had yet: its start, or an independent value."""
        self._raise_error_if_multi_objective(study)
        step = self._step_of(study, trial, {param_name: param_distribution})
        if param_name in step.params:
            return step.params[param_name]
        sampler = self._independent_for([*step.entropy, zlib.crc32(param_name.encode())])
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stop ``study.optimize`` when all chains have converged."""
        super().after_trial(study, trial, state, values)
        is_claimed = read_claim(trial.number, trial.system_attrs) is not None
        if len(study.directions) > 1 or not is_claimed:
            return
        finished = finished_as(study, trial, state, values)
        if state == TrialState.COMPLETE:
            self._tell_gaps(study, finished)
        if not self._stop_when_converged:
            return
        with self.remembering(study, trial) as table:
            is_alone = table.n_open == 1
        memory = self.remembering(study, trial) if is_alone else self.memory.reading(study)
        with memory as table:
            tolerance = table.rule.tolerance
            every = (table.search_with(number, finished) for number in range(self._n_chains))
            searches = [*takewhile(lambda search: search.has_converged(tolerance), every)]
            if len(searches) == self._n_chains and stop(study):
                best = table.best_with(finished)
                log_line(lambda: describe_end(searches, tolerance, best))

    def _tell_gaps(self, study: Study, finished: FrozenTrial) -> None:
        report = Report.of(finished)
        with self.remembering(study, finished) as table:
            self._log_unreported(finished, report, "not moved by it", among=table.reported)
        self._log_unreported(finished, report, f"left to {self._independent_name} until one is")
        self._warn_of_unknown_constraint(finished, report)

    def chains(self, study: Study) -> list[ChainSummary]:
        """Where each chain of a study stands, the one with the best value first."""
        with self.memory.reading(study) as table:
            chains = range(self._n_chains)
            return [table.summary(number) for number in sorted(chains, key=table.rank_key)]

    def _step_of(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> _Step:
        claim = self._claim_of(study, trial)
        if claim is None:
            self._warn_once(study, trial)
            return _Step(False, {}, [self._seed, trial.number])
        with self.remembering(study, trial) as table:
            may_repeat = table.may_repeat_another(claim, trial.number)
        memory = self.memory.reading(study) if may_repeat else self.remembering(study, trial)
        with memory as table:
            return _Step(True, table.params(claim, trial.number, space), table.entropy(claim))

    def _claim_of(self, study: Study, trial: FrozenTrial) -> Claim | None:
        with self.remembering(study, trial) as table:
            claim = table.pending.get(trial.number)
        if claim is not None:
            return claim
        # That of another process. The trial handed in is older than what before_trial wrote.
        return read_claim(trial.number, study._storage.get_trial_system_attrs(trial._trial_id))

    def _independent_for(self, entropy: Sequence[int]) -> BaseSampler:
        """The user's sampler, or a TPE sampler seeded by what it draws for."""
        if self._independent is not None:
            return self._independent
        options: dict[str, Any] = {}
        if self._constraints_func is not None and not hasattr(Trial, "set_constraint"):
            options["constraints_func"] = self._constraints_func  # Optuna 4 needs to be told
        return TPESampler(seed=random_seed(*entropy), **options)

    def _warn_once(self, study: Study, trial: FrozenTrial) -> None:
        with self.remembering(study, trial) as table:
            if self._has_warned or not table.reports_nothing:
                return
        self._has_warned = True
        warnings.warn(_NO_REPORTS.format(self._independent_name), stacklevel=3)

    @property
    def _independent_name(self) -> str:
        return (TPESampler if self._independent is None else type(self._independent)).__name__


def _new_table(rule: Rule, study: Study) -> Table:
    return Table(rule, maximizes(study))


def _told(
    trial: FrozenTrial, claim: Claim, table: Table, one_of_many: bool, fixed: Collection[str]
) -> str:
    return describe_step(
        claim,
        table.decision_before(claim),
        is_again=table.n_claimed(claim) > 0,
        is_enqueued=is_enqueued(trial),
        one_of_many=one_of_many,
        fixed=fixed,
    )


class _Step(NamedTuple):
    """What an outer step says about a trial's parameters."""

    is_claimed: bool
    params: dict[str, Any]  # those that it fixes
    entropy: list[int]  # seeds the draw of the others


_NO_REPORTS = (
    "GradientSampler: no trial has reported a hypergradient, so {} proposes all parameters; see "
    "optuna_hypergrad.report_hypergradient."
)
