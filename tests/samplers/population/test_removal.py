"""No checkpoint that may still be needed is ever removed: random histories of random workers."""

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from optuna_hypergrad import PopulationSampler
from optuna_hypergrad.reports.segments import read_segment, write_removed
from optuna_hypergrad.samplers.population.population import Population, removable
from samplers.populations import create, population_of, run, segments

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "complete", "complete", "fail", "prune"]), st.integers(0, 99)
    ),
    max_size=120,
)
ENDS = {"complete": TrialState.COMPLETE, "fail": TrialState.FAIL, "prune": TrialState.PRUNED}


class History:
    """A study whose workers ask, finish and clean in any order, and may never come back."""

    def __init__(self, size: int, synchronous: bool) -> None:
        sampler = PopulationSampler(seed=0, population_size=size, synchronous=synchronous)
        self.study = optuna.create_study(sampler=sampler)
        self.running: list[optuna.Trial] = []
        self.removed: set[int] = set()

    def act(self, action: str, which: int) -> None:
        if action == "ask" or not self.running:
            self.ask()
            return
        self.clean()  # as ``MemberHandle.save`` does, just before a segment ends
        trial = self.running.pop(which % len(self.running))
        state = ENDS[action]
        self.study.tell(trial, which / 99 if state == TrialState.COMPLETE else None, state=state)

    def ask(self) -> None:
        trial = self.study.ask()
        trial.suggest_float("x", 0, 1)
        self.running.append(trial)
        trials = self.study.get_trials(deepcopy=False)
        segment = read_segment(trial.number, trials[trial.number].system_attrs)
        assert segment is not None
        if segment.parent is not None:
            assert segment.parent not in self.removed
            above = read_segment(segment.parent, trials[segment.parent].system_attrs)
            assert above is not None
            if self.has_any_loss(segment.generation - 1, segment.population):
                # The parent's parent replaces a damaged checkpoint. Where a whole generation is
                # lost, the clone may be of a segment that was kept only for that purpose.
                assert above.parent is None or above.parent not in self.removed

    def has_any_loss(self, generation: int, size: int) -> bool:
        """Whether any segment of a generation has a finite loss."""
        peers = self.population().peers(generation, size)
        return any(one.has_loss for one in peers)

    def population(self) -> Population:
        population = population_of(self.study)
        population.removed = self.removed
        return population

    def clean(self) -> None:
        for one in removable(self.population()):
            self.removed.add(one.number)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.integers(1, 4), synchronous=st.booleans(), actions=ACTIONS)
def test_a_needed_checkpoint_is_never_removed(
    size: int, synchronous: bool, actions: list[tuple[str, int]]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    history = History(size, synchronous)
    for action, which in actions:
        history.act(action, which)
    history.clean()
    complete = history.study.get_trials(states=[TrialState.COMPLETE])
    if complete:
        best = {one.number for one in complete if one.value == history.study.best_value}
        assert not best <= history.removed  # of equal ones, one is enough


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.integers(1, 4), synchronous=st.booleans(), actions=ACTIONS)
def test_peers_are_the_same_for_a_reader_that_saw_every_change(
    size: int, synchronous: bool, actions: list[tuple[str, int]]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    history, reader = History(size, synchronous), Population()
    for action, which in actions:
        history.act(action, which)
        if history.running and which < 30:
            trial = history.running[which % len(history.running)]
            removed = sorted(history.removed)[: which // 5]
            write_removed(history.study._storage, trial._trial_id, removed)
        reader.read(history.study.get_trials(deepcopy=False))
        fresh = population_of(history.study)
        for generation in range(-1, 4):
            for members in (size, max(size - 1, 1)):
                numbers = [
                    [one.number for one in population.peers(generation, members)]
                    for population in (reader, fresh)
                ]
                assert numbers[0] == numbers[1]


def test_what_is_kept_does_not_grow() -> None:
    history = History(5, synchronous=False)
    for number in range(200):
        history.act("ask" if number % 2 == 0 else "complete", number * 37 % 100)
    kept = {trial.number for trial in history.study.trials} - history.removed
    assert len(kept) <= 2 * 5 + 6


def test_nothing_is_removed_while_a_trial_is_undecided() -> None:
    history = History(2, synchronous=False)
    for number in range(20):
        history.act("ask" if number % 2 == 0 else "complete", 50)
    history.study._storage.create_new_trial(history.study._study_id)  # before its decision
    population = population_of(history.study)
    assert population.undecided == {10}
    assert removable(population) == []


def test_an_explorer_that_is_ahead_of_its_generation_is_kept_until_it_can_be_cloned() -> None:
    study = create(population_size=1, burn_in=0)
    for value in (0.0, 5.0):
        run(study, value)
    member, explorer = study.ask(), study.ask()
    for trial in (member, explorer):
        trial.suggest_float("x", -1, 1)
    study.tell(explorer, 1.0)
    gone = [one.number for one in removable(population_of(study))]
    assert explorer.number not in gone
    study.tell(member, 9.0)
    run(study)
    assert segments(study)[4].parent == explorer.number


@pytest.mark.parametrize("sizes", [(4, 2, 4), (2, 6), (6, 2)])
def test_the_population_may_grow_and_shrink(sizes: tuple[int, ...]) -> None:
    study = create()
    removed: set[int] = set()
    for n_trials, size in zip((40, 40, 160)[-len(sizes) :], sizes, strict=True):
        study.sampler = PopulationSampler(seed=0, population_size=size, burn_in=0)
        for _ in range(n_trials):
            population = population_of(study)
            gone = [one.number for one in removable(population)]
            trial = study.ask()
            segment = segments(study)[-1]
            assert segment.parent not in removed
            study._storage.set_trial_system_attr(trial._trial_id, "hg:removed", gone)
            removed.update(gone)
            trial.suggest_float("x", -1, 1)
            study.tell(trial, 1.0 / (1 + segment.generation))
    latest = {segment.member for segment in segments(study)[-10:]}
    assert latest >= set(range(sizes[-1]))


def test_a_running_trial_of_another_sampler_does_not_hold_removal_back() -> None:
    study = create(population_size=2)
    sampler = study.sampler
    for _ in range(20):
        run(study)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.ask().suggest_float("x", -1, 1)
    study.sampler = sampler
    assert len(removable(population_of(study))) >= 10
