"""PopulationSampler: the Optuna glue around a population."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.mutation import Activation
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.logger import logger
from optuna_hypergrad.reports.attributes import MOST
from optuna_hypergrad.reports.objective import Report
from optuna_hypergrad.reports.segments import (
    Segment,
    Taught,
    read_refined,
    read_segment,
    write_segment,
    write_teacher,
)
from optuna_hypergrad.samplers import studies
from optuna_hypergrad.samplers.base import (
    CompletedSampler,
    ConstraintsFunc,
    Memory,
    finished_trial,
    propose,
)
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.config import (
    Mutation,
    PopulationConfig,
    Selection,
    checked_names,
)
from optuna_hypergrad.samplers.population.exploit import exploit, next_assignment
from optuna_hypergrad.samplers.population.explore import explore
from optuna_hypergrad.samplers.population.hyperparameters import continued, warm_start_values
from optuna_hypergrad.samplers.population.log import describe_segment
from optuna_hypergrad.samplers.population.loss_model import lowest_point
from optuna_hypergrad.samplers.population.population import Population
from optuna_hypergrad.samplers.population.teaching import current_teacher


class PopulationSampler(CompletedSampler[Population]):
    """Search by a population whose members learn their hyperparameters while they train.

    One trial is one *segment* of one *member*: it restores the checkpoint and the hyperparameters
    of a parent (``members.begin``), trains on, and returns its validation loss. The member's next
    segment starts from the values that it refined (``MemberHandle.refined``), or, where it reported
    only a hypergradient (``report_hypergradient``), from a step along its sign. A member among the
    worst is replaced by a clone of one of the best (*exploit*), with mutated hyperparameters
    (*explore*). With hypergradients this is hypergradient-guided mutation (HPM), without any it is
    population-based training.

    The sampler decides when a trial begins, from the stored trials and the seed alone, and stores
    its decision with the trial; any process with the same arguments continues where another
    stopped. Workers never wait: while all members are taken, the next trial runs an *explorer*, a
    mutated clone of one of the best, which is not continued but can be cloned. A failed segment is
    repeated from the last checkpoint; after three failures, or when it was pruned, the member is
    replaced by a clone. A segment that has not ended when two more generations of trials have
    begun, or after ``timeout``, is run again; if it finishes after all, it can still be cloned.

    Members are compared and cloned at equal generations, so that a fast one has no advantage.
    Feasible segments rank before infeasible ones, and these by their total violation. A member that
    violates constraints moves along their hypergradients, where it reported them.

    Args:
        seed: Seeds everything random; the same seed repeats a single-worker study. None draws
            one. A population that exists keeps the seed of its first trial.
        population_size: Number of members. They share any number of workers.
        truncation: Fraction of the members that are replaced in each generation: the worst, by
            clones of as many of the best. 0 replaces only those that were pruned or keep failing.
        selection: ``"truncation"``, or ``"tournament"``: each member is compared with a random
            other one, and replaced if that one is better.
        burn_in: A member runs ``burn_in + 1`` segments, after its start and after each
            replacement, before it may be replaced.
        mutation: What happens to the hyperparameters of a clone. ``"surrogate"``: each moves with
            probability 1/2 near the minimum of a quadratic that is fitted to the losses of the
            latest generations; the others are multiplied by 0.8 or 1.2 unless they are refined.
            ``"teacher"`` (the paper's): those with hypergradients are multiplied by weights in
            (0, 2) that a teacher network learns from the hypergradients of the students it mutated
            before; others by 0.8 or 1.2. ``"perturb"``: all are multiplied by 0.8 or 1.2.
            Factors count from the lower bound, in log space for log ranges, since they cannot
            change a sign or leave zero. ``"hypergradient"``: one more step along the hypergradient.
            ``"resample"``: only what ``resample_probability`` does. None: nothing. Of integers and
            categories only those that ``mutable`` names change.
        activation: Of the teacher: ``"softmax"`` (attention) or ``"leaky_relu"`` (a multilayer
            perceptron).
        resample_probability: With ``mutation="surrogate"``, ``"teacher"``, ``"perturb"`` or
            ``"resample"``, the probability that a mutable parameter of a clone is drawn again from
            its whole range.
            0 with ``"teacher"`` is the paper's bare teacher.
        refine: Whether members continue from refined values or along their hypergradients. False
            leaves hyperparameters to mutation alone.
        fixed: Names of parameters that are neither mutated nor refined.
        mutable: Names of integer and categorical parameters that mutation may change, too. A clone
            keeps all others, as the checkpoint that it restores may depend on them (a width, a
            kind of layer), unless its parent reported hypergradients or refined values of them.
        start: Where members start: ``"independent"`` (``independent_sampler``), or ``"best"``:
            member i at the i-th best complete trial of other samplers in the study.
        independent_sampler: Proposes the hyperparameters of first segments, and parameters that a
            parent did not have. By default random, seeded by trial; a sampler that you pass has
            random state of its own, which a restart does not restore.
        constraints_func: Returns the constraints of a finished trial, as with Optuna's own
            samplers. For Optuna 4; from 5 on use ``Trial.set_constraint`` instead.
        synchronous: Whether a generation begins only when all have finished the one before.
        timeout: Seconds after which a segment that has not ended is run again by another worker.

    Raises:
        ValueError: If an argument is out of range; the message names it. Studies with several
            objectives raise it at the first parameter, as with Optuna's own samplers.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM); "Population Based Training
        of Neural Networks" (PBT).

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -5, 5)
        ...     report_hypergradient(trial, {"x": 2 * (x - 1)})
        ...     return (x - 1) ** 2
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(objective, n_trials=40)
        >>> round(study.best_params["x"], 1)
        1.0
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        population_size: int = 20,
        truncation: float = 0.2,
        selection: Selection = "truncation",
        burn_in: int = 2,
        mutation: Mutation | None = "surrogate",
        activation: Activation = "softmax",
        resample_probability: float = 0.1,
        refine: bool = True,
        fixed: Collection[str] = (),
        mutable: Collection[str] = (),
        start: Literal["independent", "best"] = "independent",
        independent_sampler: BaseSampler | None = None,
        constraints_func: ConstraintsFunc | None = None,
        synchronous: bool = False,
        timeout: float | None = None,
    ) -> None:
        super().__init__(independent_sampler, Memory(new_population), constraints_func)
        if start not in ("independent", "best"):
            raise ValueError(f"start must be 'independent' or 'best', got {start!r}.")
        self.config = PopulationConfig(
            population_size=checked_count("population_size", population_size, most=MOST),
            selection=selection,
            truncation=truncation,
            burn_in=checked_count("burn_in", burn_in, least=0),
            mutation=mutation,
            activation=activation,
            resample_probability=resample_probability,
            refine=refine,
            synchronous=synchronous,
            timeout=timeout,
            fixed=checked_names("fixed", fixed),
            mutable=checked_names("mutable", mutable),
        )
        self._seed = studies.checked_seed(seed)
        self._starts_at_best = start == "best"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide which segment the trial runs; a retried trial keeps that of the failed one."""
        super().before_trial(study, trial)
        is_retry = read_segment(trial.number, trial.system_attrs) is not None
        if len(study.directions) > 1 or is_retry:
            return
        with self.memory.reading(study) as population:  # until the decision is written
            segment, taught = self._decide(population, study, trial)
            write_segment(study._storage, trial._trial_id, segment)
            if taught is not None:
                write_teacher(study._storage, trial._trial_id, trial.number, taught)
            if logger.isEnabledFor(logging.INFO):
                logger.info(describe_segment(segment, population, studies.fixed_params(study)))
            is_clone = segment.parent is not None and segment.age == 0
            if is_clone and not self._has_checked_names:  # by now, all have been suggested
                known = {name for one in population for name in one.trial.distributions}
                config = self.config
                self._check_names(known, fixed=config.fixed, mutable=config.mutable)
            population.pending[trial.number] = segment

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of the trial's segment, completed by the independent sampler."""
        self._raise_error_if_multi_objective(study)
        segment = self._segment_of(study, trial)
        params = {} if segment is None else proposed(segment.values, search_space)
        rest = {name: dist for name, dist in search_space.items() if name not in params}
        if rest:
            params |= propose(self._independent_for(segment, trial), study, trial, rest)
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter that not every trial has had yet: the segment's, or an independent value."""
        self._raise_error_if_multi_objective(study)
        segment, space = self._segment_of(study, trial), {param_name: param_distribution}
        params = {} if segment is None else proposed(segment.values, space)
        if param_name in params:
            return params[param_name]
        sampler = self._independent_for(segment, trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Log missing hypergradients, and warn of those of unknown constraints."""
        super().after_trial(study, trial, state, values)
        if state != TrialState.COMPLETE:
            return
        finished = finished_trial(study, trial, state, values)
        others = trial.params.keys() - {*self.config.fixed, *read_refined(finished)}
        consequence = _WITHOUT_HYPERGRADIENT.get(self.config.mutation, "cloned unchanged")
        self._check_report(finished, Report.of(finished), {consequence: others})

    def _segment_of(self, study: Study, trial: FrozenTrial) -> Segment | None:
        with self.remembering(study, trial) as population:
            segment = population.pending.get(trial.number)
        if segment is not None and not segment.queried:
            return segment
        # Of another process, or one that ``MemberHandle.teach`` may have changed. The trial
        # passed in is older than the segment that before_trial wrote.
        attrs = study._storage.get_trial_system_attrs(trial._trial_id)
        return read_segment(trial.number, attrs)

    def _decide(
        self, population: Population, study: Study, trial: FrozenTrial
    ) -> tuple[Segment, Taught | None]:
        """The segment of a trial, and the teacher if it was queried."""
        config, number = self.config, trial.number
        seed = self._seed if population.seed is None else population.seed
        rng = np.random.default_rng([seed, number])
        assignment = next_assignment(population, trial, config)
        parent, is_cloned = exploit(population, assignment, config, rng)
        size, name = config.population_size, study.study_name
        wants = config.wants_hypergradient(population.space or {})
        segment = Segment(
            number,
            *assignment,
            size,
            seed,
            name,
            fixed=config.fixed,
            wants_hypergradient=wants,
        )
        if parent is None:
            if self._starts_at_best:
                failures = len(population.attempts(*assignment))
                segment = segment._replace(values=warm_start_values(study, segment, failures))
            return segment, None
        age = 0 if is_cloned else parent.segment.age + 1
        segment = segment._replace(parent=parent.number, age=age)
        segment = continued(segment, parent, config.refine)
        taught = None
        if is_cloned:
            if config.mutation == "teacher":
                taught = current_teacher(population, number, seed, config.activation)
            model = partial(lowest_point, population, assignment.generation, size)
            segment = explore(segment, parent, taught, config, rng, model)
        return segment, taught if segment.queried else None

    def _independent_for(
        self, segment: Segment | None, trial: FrozenTrial, name: str = ""
    ) -> BaseSampler:
        """The user's sampler, or a random one seeded by population, trial and parameter."""
        if self._independent is not None:
            return self._independent
        seed = self._seed if segment is None else segment.seed
        salt = zlib.crc32(name.encode())
        return RandomSampler(seed=studies.random_seed(seed, trial.number, salt))


_WITHOUT_HYPERGRADIENT: dict[Mutation | None, str] = {
    "surrogate": "mutated without one",
    "teacher": "mutated without one",
    "perturb": "mutated without one",
    "resample": "only resampled",
}


def new_population(study: Study) -> Population:
    """The state of a study before it is read."""
    return Population(studies.maximizes(study))
