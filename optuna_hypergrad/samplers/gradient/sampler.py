"""GradientSampler: the Optuna glue around its two strategies."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, get_args

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_hypergrad.algorithms.coordinates import MAX_DIMENSION
from optuna_hypergrad.arguments import check_choice, check_kind, checked_count
from optuna_hypergrad.logger import logger
from optuna_hypergrad.reports.attributes import MOST
from optuna_hypergrad.reports.claims import (
    Claim,
    Rule,
    read_claim,
    stored_claim,
    write_claim,
    write_drawn,
)
from optuna_hypergrad.reports.objective import Report
from optuna_hypergrad.reports.proposals import Proposal, read_proposal, write_proposal
from optuna_hypergrad.samplers import studies
from optuna_hypergrad.samplers.base import (
    CompletedSampler,
    ConstraintsFunc,
    Memory,
    finished_trial,
    propose,
)
from optuna_hypergrad.samplers.distributions import is_numeric, schedule_of, start_value
from optuna_hypergrad.samplers.gradient.history import ChainSummary, summaries
from optuna_hypergrad.samplers.gradient.log import describe_end, describe_proposal, describe_step
from optuna_hypergrad.samplers.gradient.search import ClaimedTrial, is_enqueued_trial
from optuna_hypergrad.samplers.gradient.table import Table

Strategy = Literal["auto", "gaussian_process", "sign_descent"]


class GradientSampler(CompletedSampler[Table]):
    """Search by losses and hypergradients.

    Each trial trains with the hyperparameters it is given, and reports the hypergradient of its
    loss (``report_hypergradient``) if ``wants_hypergradient``. There are two strategies:

    A Gaussian process over the losses and hypergradients of all finished trials, whatever sampler
    proposed them, proposes the point with the largest expected improvement, the first few spread
    over the space. Failed trials are avoided; pruned and diverged ones are bad losses.

    Sign descent moves every hyperparameter against the sign of its hypergradient, by a step size
    of its own, which is halved when the sign flips. One trial is one outer step. Workers never
    wait: while the trial of an outer step runs, the next one to ask gets a replicate of it, the
    same point with another ``trial_seed``. A step is decided by the mean hypergradient of its
    finished replicates; those that finish later do not change it. Failed trials are repeated;
    pruned trials (except those that ``ConsensusPruner`` ends) and trials with hypergradients that
    are not finite count as diverged.

    The next proposal depends on the stored trials alone: any process with the same arguments
    continues where another stopped.

    What follows is about sign descent, as are all arguments but ``seed``, ``strategy``, ``start``,
    ``independent_sampler`` and ``constraints_func``.

    As in Optuna's own samplers, feasible trials are better than infeasible ones, and of these the
    smaller total violation is better. A point that violates constraints is left along their
    hypergradients (``report_hypergradient(..., constraint=...)``). If none of these is reported,
    or all are 0, an infeasible trial is rejected: parameters without hypergradients are drawn again
    at its point, up to three times; if it stays infeasible, every step size is halved and the
    search returns to the best feasible point. While there is none, it follows the hypergradient
    of the loss as long as the violation decreases, and then starts elsewhere.

    Parameters without hypergradients (categorical ones, integers, any that are not reported) come
    from ``independent_sampler``, drawn again for each outer step. A sampler that you pass has a
    random state of its own, which a restart does not restore.

    Args:
        seed: Seeds everything random; the same seed repeats a single-worker study. None draws one.
        strategy: ``"gaussian_process"``, ``"sign_descent"``, or ``"auto"``: the Gaussian process
            unless an argument of sign descent is given, a finished trial has constraints, or there
            are more than 64 hyperparameters (a schedule counts as one).
        safeguard: Fraction of the progress since the first trial that a trial's loss may fall
            behind the best one before it is rejected: the search returns to the best point,
            measures it once more, and takes smaller steps from there. Divergence is always
            rejected. None follows the paper, which rejects nothing, not even infeasible trials.
        start: Where the first chain starts: ``"range"`` (0 where a range contains it, else the
            middle), ``"best"`` (the best complete trial of any sampler at that time), or values by
            parameter or schedule name, with the rest as for ``"range"``.
        step_size: First step sizes by parameter or schedule name, in the parameter's unit or, for
            log ranges, in units of its natural logarithm. Others are a twentieth of their range.
        n_replicates: How many trials of the same point decide an outer step.
        n_chains: How many searches run side by side in the study. Chains after the first start at
            random points (with ``start="best"``, from the next best trials).
        independent_sampler: For the parameters without hypergradients. By default TPE, seeded
            for each outer step.
        constraints_func: Returns the constraints of a finished trial, as for Optuna's own samplers:
            the trial is feasible if none exceeds 0. For Optuna 4; Optuna 5 deprecates it in favour
            of ``Trial.set_constraint``, which needs no argument here.
        tolerance: A chain has converged when every step size is below this fraction of its range.
            A parameter also counts as settled on its bound, after three hypergradients of 0 in a
            row, and after ten trials in a row without one. A chain also ends when ten trials of
            one point reported nothing.
        stop_when_converged: End ``study.optimize`` when all chains have converged, with an INFO
            line that says why. With ask-and-tell there is no loop to end; see ``chains``.

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
        strategy: Strategy = "auto",
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
        check_choice("strategy", strategy, get_args(Strategy))
        self._from_best = start == "best"
        if isinstance(start, str):
            if start not in ("range", "best"):
                raise ValueError(f"start must be 'range', 'best' or a mapping, got {start!r}.")
            start = {}
        rule = Rule(safeguard, start, step_size or {}, n_replicates, tolerance)
        super().__init__(independent_sampler, Memory(partial(_new_table, rule)), constraints_func)
        self._rule = rule
        self._n_chains = checked_count("n_chains", n_chains, most=MOST)
        of_descent = _arguments_of_descent(rule, self._n_chains)
        if strategy == "gaussian_process" and of_descent:
            raise ValueError(
                f"{of_descent[0]} is an argument of strategy='sign_descent', got "
                "strategy='gaussian_process'."
            )
        self._strategy = "sign_descent" if strategy == "auto" and of_descent else strategy
        self._seed = studies.checked_seed(seed)
        check_kind("stop_when_converged", stop_when_converged, bool, "True or False")
        self._stop_when_converged = stop_when_converged
        self._has_warned = False

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Claim an outer step for the trial; a retried trial keeps that of the failed one."""
        super().before_trial(study, trial)
        is_retry = read_claim(trial.number, trial.system_attrs) is not None
        if len(study.directions) > 1 or is_retry:
            return
        with self.memory.reading(study) as table:
            if self._is_modelled(table):
                self._begin_proposal(study, trial, table)
                return
            if table.lacks_reports:
                return
            claim = table.next_claim(trial.number, self._n_chains, self._seed, self._from_best)
            one_of_many = self._n_chains > 1
            storage, trial_id = study._storage, trial._trial_id
            table.begin(claim, write_claim(storage, trial_id, claim, one_of_many=one_of_many))
            if logger.isEnabledFor(logging.INFO):
                line = describe_step(
                    claim,
                    table.decision_before(claim),
                    is_again=len(table.claimed(claim)) > 0,
                    is_enqueued=is_enqueued_trial(trial),
                    one_of_many=one_of_many,
                    fixed=studies.fixed_params(study),
                )
                logger.info(line)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of the trial's outer step, completed by the independent sampler."""
        self._raise_error_if_multi_objective(study)
        decision = self._decision(study, trial)
        if isinstance(decision, Proposal):
            return self._modelled(study, trial, decision, search_space)
        params, entropy = self._of_step(study, trial, decision, search_space)
        rest = {name: dist for name, dist in search_space.items() if name not in params}
        if not rest:
            return params
        params |= propose(self._independent_for(entropy), study, trial, rest)
        if decision is not None:
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
        """A parameter that some complete trial lacks: its start, or an independent value."""
        self._raise_error_if_multi_objective(study)
        decision = self._decision(study, trial)
        if isinstance(decision, Proposal):
            return self._unmodelled(study, trial, param_name, param_distribution)
        space = {param_name: param_distribution}
        params, entropy = self._of_step(study, trial, decision, space)
        if param_name in params:
            return params[param_name]
        sampler = self._independent_for([*entropy, zlib.crc32(param_name.encode())])
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
        if len(study.directions) > 1:
            return
        if stored_claim(trial) is None:
            is_complete = state == TrialState.COMPLETE
            if is_complete and isinstance(self._decision(study, trial), Proposal):
                finished = finished_trial(study, trial, state, values)
                self._check_complete(finished, Report.of(finished), {_LOSS_ALONE: None})
            return

        def is_enough(table: Table) -> bool:
            """Whether no other trial was known to run when this one began, or none matters."""
            is_alone = table.n_open == 1 or not self._stop_when_converged
            return is_alone and trial.number in table.pending

        finished = finished_trial(study, trial, state, values)
        with self.memory.reading(study, is_enough) as table:
            ended = table.end(finished)
            if ended is not None and state == TrialState.COMPLETE:
                left_to = f"left to {self._independent_name} until one is"
                consequences = {"not moved by it": table.reported, left_to: None}
                self._check_complete(finished, ended.report, consequences)
            if ended is not None and self._stop_when_converged:
                self._stop_if_converged(study, ended, table)

    def chains(self, study: Study) -> list[ChainSummary]:
        """Where each chain of a study stands, the one with the best value first."""
        with self.memory.reading(study) as table:
            return summaries(table, self._n_chains)

    def _decision(self, study: Study, trial: FrozenTrial) -> Claim | Proposal | None:
        """What was decided when a trial began, by this process or another one."""
        with self.remembering(study, trial) as table:
            if trial.number in table.pending:
                return table.pending[trial.number]
        # Another process decided. ``trial`` is older than that.
        attributes = study._storage.get_trial_system_attrs(trial._trial_id)
        return read_claim(trial.number, attributes) or read_proposal(trial.number, attributes)

    def _of_step(
        self,
        study: Study,
        trial: FrozenTrial,
        claim: Claim | None,
        space: Mapping[str, BaseDistribution],
    ) -> tuple[dict[str, Any], list[int]]:
        """The parameters that an outer step determines, and what seeds the draws of the others."""
        number = trial.number

        def is_enough(table: Table) -> bool:
            """Whether the point is known that a replicate has to repeat."""
            if claim is None or number not in table.pending:
                return False
            return not table.lacks_point(claim, number)

        with self.memory.reading(study, is_enough) as table:
            if claim is not None:
                return table.params(claim, number, space), table.entropy(claim)
            if table.lacks_reports and not self._has_warned:
                self._has_warned = True
                warnings.warn(_NO_REPORTS.format(self._independent_name), stacklevel=3)
        return {}, [self._seed, number]

    def _modelled(
        self,
        study: Study,
        trial: FrozenTrial,
        proposal: Proposal,
        space: Mapping[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The point that the Gaussian process proposes; the first one is the start."""
        if not space:
            return {}
        with self.remembering(study, trial) as table:
            avoided, asking = table.avoided(trial.number), table.asking(trial.number)
            params = table.observed.model(space).propose(avoided, asking, proposal)
            if table.observed.first_proposal == trial.number:
                params |= self._start(table, space)
            return params

    def _start(self, table: Table, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """Where the Gaussian process starts in a study that has complete trials of others."""
        best = table.best()
        if self._from_best and best is not None:
            return {name: best.params[name] for name in space}
        start = table.rule.start
        named = [n for n in space if is_numeric(space[n]) and {n, schedule_of(n)} & start.keys()]
        return {name: start_value(name, space[name], start, (self._seed, 0, 0)) for name in named}

    def _check_complete(
        self,
        trial: FrozenTrial,
        report: Report,
        consequences: Mapping[str, Collection[str] | None],
    ) -> None:
        """Log what a complete trial shows to be misnamed or not reported; see ``_check_report``."""
        if not self._has_checked_names:
            known, rule = {*trial.params, *map(schedule_of, trial.params)}, self._rule
            self._check_names(known, start=rule.start, step_size=rule.step_size)
        self._check_report(trial, report, consequences)

    def _is_modelled(self, table: Table) -> bool:
        """Whether the Gaussian process proposes the next trial."""
        if self._strategy != "auto":
            return self._strategy == "gaussian_process"
        if table.observed.has_constraints or self._constraints_func is not None:
            return False
        model = table.observed.model(table.free_space)
        return model.space.n_independent <= MAX_DIMENSION

    def _begin_proposal(self, study: Study, trial: FrozenTrial, table: Table) -> None:
        model = table.observed.model(table.free_space)
        wants = model.wants_hypergradient(table.observed.n_asked)
        proposal = Proposal(trial.number, self._seed, wants)
        write_proposal(study._storage, trial._trial_id, proposal)
        table.propose(proposal)
        if logger.isEnabledFor(logging.INFO):
            running = table.avoided(trial.number)
            is_enqueued = is_enqueued_trial(trial)
            logger.info(describe_proposal(proposal, model, running, is_enqueued))

    def _unmodelled(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """A parameter that some complete trial lacks.

        The first trial takes its start. Trials that begin before another has completed share a
        random level of all windows of a schedule.
        """
        with self.remembering(study, trial) as table:
            is_first, has_completed = table.n_trials <= 1, table.space is not None
            start = table.rule.start
        if is_numeric(distribution) and not has_completed:
            entropy = (self._seed, 0 if is_first else trial.number, 0)
            return start_value(name, distribution, start, entropy, of_group=True)
        sampler = self._independent_for([self._seed, trial.number, zlib.crc32(name.encode())])
        return sampler.sample_independent(study, trial, name, distribution)

    def _stop_if_converged(self, study: Study, ended: ClaimedTrial, table: Table) -> None:
        chains = [table.chain(number, ended) for number in range(self._n_chains)]
        tolerance = table.rule.tolerance
        if all(chain.has_converged(tolerance) for chain in chains):
            is_stopping = getattr(study, "_stop_flag", False)  # another thread may have stopped it
            with suppress(RuntimeError):  # ask-and-tell has no loop to end
                study.stop()
                if not is_stopping and logger.isEnabledFor(logging.INFO):
                    logger.info(describe_end(chains, tolerance, table.best(ended.trial)))

    def _independent_for(self, entropy: Sequence[int]) -> BaseSampler:
        """The user's sampler, or a TPE sampler seeded for what it draws."""
        if self._independent is not None:
            return self._independent
        options: dict[str, Any] = {}
        if self._constraints_func is not None and not hasattr(Trial, "set_constraint"):
            options["constraints_func"] = self._constraints_func  # Optuna 4 needs it
        return TPESampler(seed=studies.random_seed(*entropy), **options)

    @property
    def _independent_name(self) -> str:
        return (TPESampler if self._independent is None else type(self._independent)).__name__


def _arguments_of_descent(rule: Rule, n_chains: int) -> list[str]:
    """The arguments that only descent along signs has, as far as they are given."""
    given = {
        "safeguard": rule.safeguard != Rule.safeguard,
        "step_size": bool(rule.step_size),
        "n_replicates": rule.n_replicates != Rule.n_replicates,
        "tolerance": rule.tolerance != Rule.tolerance,
        "n_chains": n_chains != 1,
    }
    return [name for name, is_given in given.items() if is_given]


def _new_table(rule: Rule, study: Study) -> Table:
    return Table(rule, studies.maximizes(study))


_LOSS_ALONE = "known to the Gaussian process by the losses alone"
_NO_REPORTS = (
    "GradientSampler: no trial has reported a hypergradient, so {} proposes all parameters; see "
    "optuna_hypergrad.report_hypergradient."
)
