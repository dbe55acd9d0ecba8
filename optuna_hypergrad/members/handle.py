"""MemberHandle: what the objective of a population restores, reports and saves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from optuna import Trial

from optuna_hypergrad import checkpoints
from optuna_hypergrad.arguments import check_can, check_kind, checked_count
from optuna_hypergrad.checkpoints import CheckpointError
from optuna_hypergrad.checkpoints.store import STORE
from optuna_hypergrad.members.checkpoint import preceding, remove_unneeded, restore
from optuna_hypergrad.members.options import check_options, follow
from optuna_hypergrad.reports.segments import (
    Segment,
    read_segment,
    read_teacher,
    report_checkpoint,
    report_refined,
    report_restored,
    write_segment,
    write_teacher,
)
from optuna_hypergrad.samplers.population.teaching import Hypergradient, taught_within

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

Keep = Literal["living", "all"]


def begin(trial: Trial, artifact_store: ArtifactStore, *, keep: Keep = "living") -> MemberHandle:
    """Begin a segment of a member of a population.

    Args:
        trial: The running trial that the objective was given, of a ``PopulationSampler``. With
            another sampler no trial has a parent.
        artifact_store: Any of Optuna's artifact stores, the same for all workers.
        keep: Which checkpoints stay. ``"living"``: those that may still be continued or cloned,
            the parent of each of these, and the best of all; each ``save`` removes the others.
            ``"all"``: every one.

    Raises:
        ValueError: If ``keep`` is something else.

    Example:
        >>> import optuna, tempfile, torch
        >>> from optuna_hypergrad import PopulationSampler, members
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> store = optuna.artifacts.FileSystemArtifactStore(tempfile.mkdtemp())
        >>> def objective(trial):
        ...     member = members.begin(trial, store)
        ...     lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        ...     _ = torch.manual_seed(trial.number)
        ...     model = torch.nn.Linear(1, 1)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        ...     member.restore(model=model, optimizer=optimizer)
        ...     loss = (model(torch.ones(4, 1)) - 2.0).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     member.save(model=model, optimizer=optimizer)
        ...     return loss.item()
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(objective, n_trials=20)
        >>> study.best_value < study.trials[0].value
        True
    """
    check_kind("trial", trial, Trial, "the running trial that the objective was given")
    check_can("artifact_store", artifact_store, "an artifact store", *STORE)
    if keep not in ("living", "all"):
        raise ValueError(f"keep must be 'living' or 'all', got {keep!r}.")
    return MemberHandle(trial, artifact_store, keep)


class MemberHandle:
    """A member of a population in one segment; see ``begin``."""

    def __init__(self, trial: Trial, artifact_store: ArtifactStore, keep: Keep) -> None:
        self._trial, self._store, self._keep = trial, artifact_store, keep
        attrs = trial.storage.get_trial_system_attrs(trial._trial_id)
        # The trial of another sampler is a population of one.
        alone = Segment(trial.number, None, 0, 1, 0, trial.study.study_name)
        self._segment = read_segment(trial.number, attrs) or alone

    @property
    def number(self) -> int | None:
        """The member's place in the population; None for an explorer."""
        return self._segment.member

    @property
    def generation(self) -> int:
        """The number of segments that the member has run before."""
        return self._segment.generation

    @property
    def parent(self) -> int | None:
        """Number of the trial that this one continues or clones; None at the start."""
        return self._segment.parent

    @property
    def is_clone(self) -> bool:
        """Whether the segment starts as a mutated clone."""
        return self.parent is not None and self._segment.age == 0

    def restore(
        self, *, rng: bool = True, uses: Mapping[str, str] | None = None, **parts: Any
    ) -> dict[str, Any]:
        """Restore the parent's checkpoint into the parts of the training.

        An optimizer gets back its state, but keeps its options as constructed: the learning rate
        and the like are those that the trial suggests, which is checked. A damaged or missing
        checkpoint is replaced by the nearest older one of the lineage, with a warning.

        Args:
            rng: Whether to restore the global random generators, too, where a member continues
                its own training; a clone never takes over its parent's random numbers. Pass False
                where threads (``n_jobs``) share these generators.
            uses: Options of the optimizers by parameter of the trial, to be checked:
                ``{"rate": "lr", "beta": "betas.0", "head_lr": "1.lr", "critic_lr": "critic.lr"}``,
                the last two of the second parameter group, and of the optimizer restored as
                ``critic``. By default, the options that have the name of a parameter suggested
                before. One parameter group that uses the value is enough. A learning rate that a
                scheduler moves is compared before it moves (``initial_lr``).
            parts: What was saved under the same names: models, optimizers, ``HyperTraining``,
                anything else with ``load_state_dict``. A learning rate scheduler continues from
                its step, but with the learning rate that the trial suggests. A part that has
                ``set_values`` is set to the values that the trial suggests.

        Returns:
            The other parts of the checkpoint, by name: step counters and the like. Empty where
            the segment has no parent.

        Raises:
            TypeError: If ``save`` could not store the state of a part.
            CheckpointError: If no checkpoint of the lineage can be read, or it lacks a part; an
                ``UnreachableError`` if the store fails, and the trial is to be repeated.
            ValueError: If an optimizer uses another value than the trial suggests.
        """
        self.check(**{name: part for name, part in parts.items() if hasattr(part, "state_dict")})
        state: dict[str, Any] = {}
        if self.parent is not None:
            number, state = restore(self._trial, self._segment, self._store)
            report_restored(self._trial, number, self.parent)
        stored = state.get("parts", {})
        for name, part in parts.items():
            if state and name not in stored:
                raise CheckpointError(f"no part {name!r} among those saved: {', '.join(stored)}.")
            follow(part, stored.get(name), self._trial)
        check_options(parts, self._trial.params, uses)
        if rng and state and not self.is_clone:
            checkpoints.set_rng_state(state["rng"])
        return {name: part for name, part in stored.items() if name not in parts}

    def check(self, **parts: Any) -> None:
        """Check, before the training, that ``save`` can store such parts.

        ``restore`` checks those that it is given.

        Args:
            parts: As in ``save``, with examples of later values.

        Raises:
            TypeError: As ``save``; and if a part is a class, not an instance of it.

        Example:
            >>> import optuna, tempfile
            >>> from optuna_hypergrad import members
            >>> store = optuna.artifacts.FileSystemArtifactStore(tempfile.mkdtemp())
            >>> member = members.begin(optuna.create_study().ask(), store)
            >>> member.check(best=0.1, seen=range(3))
            Traceback (most recent call last):
            TypeError: seen: cannot store <class 'range'>; convert it to a number, string, tensor,
            list, tuple, set or dict.
        """
        checkpoints.check(_states(parts))

    def save(self, **parts: Any) -> None:
        """Save a checkpoint after the training; the last one counts.

        It is uploaded, then reported; then checkpoints that are no longer needed are removed,
        unless ``keep="all"``.

        Args:
            parts: What ``restore`` restores or returns: anything with ``state_dict``; otherwise
                numbers, strings, tensors, numpy arrays, and nested lists, tuples, sets and
                mappings. They come back as Python's own types: ``np.float64`` as a float, a named
                tuple as a tuple, a deque as a list, a ``defaultdict`` as a dict.

        Raises:
            TypeError: If a part holds something that cannot be stored; it names the path, and
                nothing is uploaded. A checkpoint that was saved before stays.
        """
        saved = _states(parts)
        state = {"parts": saved, "rng": checkpoints.rng_state()}
        try:
            checkpoint = checkpoints.upload(self._trial, self._store, state)
        except TypeError:
            checkpoints.check(saved)  # names the path from the part on
            raise
        report_checkpoint(self._trial, checkpoint)
        if self._keep == "living":
            remove_unneeded(self._trial, self._store, checkpoint)

    def refined(self, values: Mapping[str, Any]) -> None:
        """Report the hyperparameters that the member refined while it trained.

        Its next segment starts from them. Values outside of a parameter's range are moved to the
        nearest bound; those that are NaN or infinite are ignored, and so are those of parameters
        that the sampler fixes, with a warning.

        Args:
            values: By the names of numeric trial parameters, in their own units; parameters may
                be left out.

        Raises:
            ValueError: If ``values`` is empty, names what the trial has not suggested or what is
                categorical, or holds what is not one number; if the trial has reported before.
        """
        report_refined(self._trial, values)
        ignored = sorted({*values} & {*self._segment.fixed})
        if ignored:
            message = f"refined: {ignored[0]!r} is fixed in the sampler, so its refined value"
            warnings.warn(f"{message} is ignored by the next segment.", stacklevel=2)

    def teach(self, hypergradient: Hypergradient, *, steps: int = 5) -> int:
        """Train the population's teacher on this student before the teacher mutates it.

        The procedure of the paper (HPM, Eq. 10): with the student restored and frozen, the teacher
        descends its validation loss, from where the population has brought it. Call it before
        parameters are suggested; it does nothing unless the teacher mutates this student.

        Args:
            hypergradient: Given values by parameter, the hypergradient of the validation loss
                there, in natural units, by parameter.
            steps: The number of steps of the teacher.

        Returns:
            The number of calls of ``hypergradient``.

        Raises:
            RuntimeError: If a parameter was suggested already.
        """
        checked_count("steps", steps)
        storage, trial_id = self._trial.storage, self._trial._trial_id
        attrs = storage.get_trial_system_attrs(trial_id)
        taught = read_teacher(self._trial.number, attrs)
        is_retry = self._segment.trial != self._trial.number  # with the values of the failed one
        if taught is None or not self._segment.queried or is_retry:
            return 0
        if self._trial.params:
            names = ", ".join(self._trial.params)
            raise RuntimeError(
                f"teach: call it before the first suggestion; this trial has suggested {names}."
            )
        trials = self._trial.study.get_trials(deepcopy=False)
        parent = next(preceding(trials, self._segment))
        taught, self._segment = taught_within(
            taught, self._segment, parent.distributions, hypergradient, steps
        )
        write_segment(storage, trial_id, self._segment)
        write_teacher(storage, trial_id, self._trial.number, taught)
        return steps


def _states(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of each part."""
    for name, part in parts.items():
        if isinstance(part, type):
            raise TypeError(f"{name}: expected an instance, got the class {part.__name__}.")
    return {n: p.state_dict() if hasattr(p, "state_dict") else p for n, p in parts.items()}
