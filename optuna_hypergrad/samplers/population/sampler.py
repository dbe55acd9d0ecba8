"""PopulationSampler: the Optuna glue around a population of students."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.mutation import Activation
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.logger import get_logger
from optuna_hypergrad.reports import (
    Report,
    Segment,
    Taught,
    read_refined,
    read_segment,
    write_segment,
    write_teacher,
)
from optuna_hypergrad.reports.attributes import MOST
from optuna_hypergrad.samplers.base import CompletedSampler, ConstraintsFunc, Memory, propose
from optuna_hypergrad.samplers.describe import log_line
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.assignment import next_assignment
from optuna_hypergrad.samplers.population.config import (
    Mutation,
    PopulationConfig,
    Selection,
    checked_names,
)
from optuna_hypergrad.samplers.population.exploit import begin, exploit
from optuna_hypergrad.samplers.population.log import describe_segment
from optuna_hypergrad.samplers.population.population import Population
from optuna_hypergrad.samplers.population.teaching import brought_up_to_date
from optuna_hypergrad.samplers.ranking import founding_values
from optuna_hypergrad.samplers.studies import (
    checked_seed,
    finished_as,
    held,
    maximizes,
    random_seed,
)


class PopulationSampler(CompletedSampler[Population]):
    """Search by a population whose students learn their hyperparameters while they train.

    One trial is one *segment* of one student: it inherits the checkpoint and the hyperparameters
    of a parent (``members.begin``), trains on for a while, and returns its validation loss. The
    student's next segment starts from the values that it refined (``Member.refined``), or, where
    it reported only a hypergradient (``report_hypergradient``), from a step along its sign. A
    student among the worst is replaced by a clone of one of the best, with mutated
    hyperparameters. With hypergradients this is hypergradient-guided mutation (HPM), without any
    it is population-based training.

    Which student runs next, whom it inherits from and what is mutated is decided from the stored
    trials and the seed alone, when a trial begins, and stored with that trial. Any process with
    the same arguments goes on where another stopped. Workers never wait: while all students are
    taken, whoever asks runs an *explorer*, a mutated clone of one of the best, which is not
    continued but can be cloned like any other student. A failed segment is repeated from the last
    checkpoint; after three failures, or when it was pruned, the student is replaced by a clone.
    So is the worker of a segment that has not ended when two more generations of trials have
    begun, or after ``timeout``: another takes the segment over. Whatever finishes late can still be
    cloned.

    Students are compared and cloned at equal generations, so that a fast one has no advantage. A
    feasible student is better than an infeasible one, and of two infeasible ones the one with the
    smaller total violation of its constraints, as to Optuna's own samplers. A student that violates
    constraints goes on along their hypergradients, where it reported them.

    Args:
        seed: Seeds everything random; the same seed repeats a single-worker study. None draws
            one. A population that exists keeps the seed of its first trial.
        population_size: Number of students. They take turns on any number of workers.
        truncation: Fraction of the students at each end of truncation selection: so many of the
            worst are replaced by clones of as many of the best. 0 replaces only the lost ones.
        selection: ``"truncation"``, or ``"tournament"``: each student is compared with one
            other, at random, and replaced if that one is better.
        burn_in: How many segments more than one a student runs, after its birth and after each
            replacement, before it may be replaced.
        mutation: What happens to the hyperparameters of a clone. ``"teacher"``: those with
            hypergradients are multiplied by weights in (0, 2) that a teacher network learns from
            the hypergradients of the students it mutated before; others by 0.8 or 1.2. Values
            count from the lower bound, in log space for log ranges, since a factor cannot change
            a sign or leave zero. ``"perturb"``: all are multiplied by 0.8 or 1.2.
            ``"hypergradient"``: one more step along the hypergradient. ``"resample"``: nothing but
            what ``resample_probability`` does. None: nothing. Of integers and categories only
            those that ``mutable`` names change.
        activation: Of the teacher: ``"softmax"`` (attention) or ``"leaky_relu"`` (a multilayer
            perceptron).
        resample_probability: With ``mutation="teacher"``, ``"perturb"`` or ``"resample"``, the
            probability by which each parameter of a clone that may mutate is drawn anew from its
            whole range. 0 with ``"teacher"`` is the paper's bare teacher.
        refine: Whether students go on from refined values or along their hypergradients. False
            leaves hyperparameters to mutation alone.
        fixed: Names of parameters that a student and its clones keep from birth on: they are
            neither mutated nor refined.
        mutable: Names of integer and categorical parameters that mutation may change, too. A clone
            inherits all others as they are, as the checkpoint that it goes on from may depend on
            them (a width, a kind of layer), unless its parent reported hypergradients or refined
            values of them.
        start: Where students are born: ``"independent"`` (``independent_sampler``), or
            ``"best"``: the i-th student at the i-th best complete trial, of whatever sampler,
            that the study holds besides the population.
        independent_sampler: Proposes the hyperparameters of births, and parameters that a parent
            did not have. By default random, seeded by trial; a sampler that you pass keeps random
            state of its own, which a restart does not bring back.
        constraints_func: Of a finished trial, its constraints, as Optuna's own samplers take it:
            the trial is feasible where none exceeds 0. For Optuna 4; deprecated there from 5 on in
            favour of ``Trial.set_constraint``, which needs no argument here.
        synchronous: Whether a generation begins only when the one before has ended for all.
        timeout: Seconds after which another worker takes over a segment that has not ended.

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
        mutation: Mutation | None = "teacher",
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
        super().__init__(independent_sampler, Memory(new_family), constraints_func)
        if start not in ("independent", "best"):
            raise ValueError(f"start must be 'independent' or 'best', got {start!r}.")
        self.breeding = PopulationConfig(
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
        self._seed = checked_seed(seed)
        self._from_best = start == "best"
        self._has_checked_names = False

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide which segment the trial runs; a retried trial keeps the one it inherited."""
        super().before_trial(study, trial)
        is_retry = read_segment(trial.number, trial.system_attrs) is not None
        if len(study.directions) > 1 or is_retry:
            return
        with self.memory.reading(study) as family:  # until the decision is written
            segment, taught = self._decide(family, study, trial)
            write_segment(study._storage, trial._trial_id, segment)
            if taught is not None:
                write_teacher(study._storage, trial._trial_id, trial.number, taught)
            log_line(lambda: describe_segment(segment, family, held(study)))
            if segment.parent is not None and segment.age == 0:
                self._warn_of_unknown_names(family)
            family.pending[trial.number] = segment

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
        """A parameter that not every trial has had yet: inherited, or an independent value."""
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
        """Tell of hypergradients that were left out, and of those of unknown constraints."""
        super().after_trial(study, trial, state, values)
        if state != TrialState.COMPLETE:
            return
        finished = finished_as(study, trial, state, values)
        others = trial.params.keys() - {*self.breeding.fixed, *read_refined(finished)}
        fate = _FATES.get(self.breeding.mutation, "inherited unchanged")
        report = Report.of(finished)
        self._log_unreported(finished, report, fate, among=others)
        self._warn_of_unknown_constraint(finished, report)

    def _segment_of(self, study: Study, trial: FrozenTrial) -> Segment | None:
        with self.remembering(study, trial) as family:
            segment = family.pending.get(trial.number)
        if segment is not None and not segment.queried:
            return segment
        # That of another process, or one that ``Member.teach`` may have rewritten. The trial
        # handed in is older than the segment that before_trial wrote.
        return read_segment(trial.number, study._storage.get_trial_system_attrs(trial._trial_id))

    def _decide(
        self, family: Population, study: Study, trial: FrozenTrial
    ) -> tuple[Segment, Taught | None]:
        """The segment of a trial, and the teacher that was asked, if one was."""
        breeding, number = self.breeding, trial.number
        seed = self._seed if family.seed is None else family.seed
        rng = np.random.default_rng([seed, number])
        turn = next_assignment(family, trial, breeding)
        inheritance = exploit(family, turn, breeding, maximizes(study), rng)
        taught = None
        if inheritance.is_cloned and breeding.mutation == "teacher":
            taught = brought_up_to_date(family, number, seed, breeding.activation)
        birth = Segment(
            number,
            *turn,
            breeding.population_size,
            seed,
            study.study_name,
            fixed=breeding.fixed,
        )
        segment = begin(birth, inheritance, breeding, taught, rng)
        if segment.parent is None and self._from_best:
            failures = len(family.attempts(*turn))
            values = founding_values(study, birth, failures)
            segment = segment._replace(values=values)
        return segment, taught if segment.queried else None

    def _warn_of_unknown_names(self, family: Population) -> None:
        """Once, when students are cloned for the first time and have suggested all there is."""
        if self._has_checked_names:
            return
        self._has_checked_names = True
        known = {name for student in family for name in student.trial.distributions}
        for argument in ("fixed", "mutable"):
            for name in sorted({*getattr(self.breeding, argument)} - known):
                get_logger().warning(
                    f"PopulationSampler: {argument} names {name!r}, which no trial has suggested; "
                    f"they have suggested {', '.join(sorted(known)) or 'nothing'}."
                )

    def _independent_for(
        self, segment: Segment | None, trial: FrozenTrial, name: str = ""
    ) -> BaseSampler:
        """The user's sampler, or a random one seeded by what it draws for."""
        if self._independent is not None:
            return self._independent
        seed = self._seed if segment is None else segment.seed
        return RandomSampler(seed=random_seed(seed, trial.number, zlib.crc32(name.encode())))


_FATES: dict[Mutation | None, str] = {
    "teacher": "mutated without one",
    "perturb": "mutated without one",
    "resample": "only drawn anew at random",
}


def new_family(study: Study) -> Population:
    """What is known of a study before it is read."""
    return Population()
