"""Count what a study has lost by the death of workers, from its trials; for kills.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from kills_worker import new_sampler
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.checkpoints import CheckpointError, download
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.segments import read_checkpoint, read_removed, read_segment
from optuna_hypergrad.samplers.gradient.search import decisions
from optuna_hypergrad.samplers.gradient.table import ancestry

Trials = Sequence[FrozenTrial]


def losses(study: optuna.Study, store: FileSystemArtifactStore) -> dict[str, int]:
    """Count the losses of a study.

    Returns:
        ``trials``: those that never end. ``places``: steps of the search, or segments of the
        population's members, up to the last claimed one, that nobody completed.
        ``doubled``: complete trials that did not run what their lineage, each place of which
        counts once, had led to. ``dangling``: reported checkpoints that are neither in the store
        nor known to be removed.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    is_search = any(read_claim(trial.number, trial.system_attrs) for trial in trials)
    return {
        "trials": len(trials) - len(complete),
        "places": len(_up_to(_places(trials)) - _places(complete)),
        "doubled": _off_path(study) if is_search else _off_lineage(trials),
        "dangling": _dangling(trials, complete, store),
    }


def _places(trials: Iterable[FrozenTrial]) -> set[tuple[int, int]]:
    """(chain, step), or (member, generation); explorers have none."""
    places = set()
    for trial in trials:
        claim = read_claim(trial.number, trial.system_attrs)
        segment = read_segment(trial.number, trial.system_attrs)
        if claim is not None:
            places.add((claim.chain, claim.step))
        elif segment is not None and segment.member is not None:
            places.add((segment.member, segment.generation))
    return places


def _up_to(places: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """These places and all before them."""
    return {(line, earlier) for line, last in places for earlier in range(last + 1)}


def _off_path(study: optuna.Study) -> int:
    """Trials that ran another point than their parents lead to, as read now.

    Hypergradients have noise, so the point identifies the trials that it was decided from.
    """
    table = new_sampler("gradient").memory.new(study)
    table.read(study.get_trials(deepcopy=False))
    steps = table.steps[0]
    off = 0
    for one in (one for claimed in steps for one in claimed):
        if one.trial.state == TrialState.COMPLETE:
            path = ancestry(steps, one.claim)
            numbers = [parent.trial.number for used in path for parent in used]
            found = decisions(path, table.rule, maximize=False)
            point = found[-1].after.point() if found else {}
            is_there = all(one.trial.params[name] == value for name, value in point.items())
            off += not is_there or len(numbers) != len(set(numbers))
    return off


def _off_lineage(trials: Trials) -> int:
    """Segments whose checkpoint was not trained by exactly their lineage, one a generation."""
    untrue = 0
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            ancestors = _ancestors(trials, trial)
            generations = [ancestor.user_attrs["hg:generation"] for ancestor in ancestors]
            is_line = generations == sorted(set(generations))
            trained_by = [ancestor.number for ancestor in ancestors]
            untrue += not is_line or trained_by != trial.user_attrs["history"]
    return untrue


def _ancestors(trials: Trials, trial: FrozenTrial) -> list[FrozenTrial]:
    """The lineage of a segment, which is the last."""
    line = [trial]
    while (segment := read_segment(line[0].number, line[0].system_attrs)) is not None:
        if segment.parent is None:
            break
        line.insert(0, trials[segment.parent])
    return line


def _dangling(trials: Trials, complete: Trials, store: FileSystemArtifactStore) -> int:
    """Reported checkpoints that are missing, or not what their trials saved."""
    removed = {number for trial in trials for number in read_removed(trial)}
    dangling = 0
    for trial in complete:
        checkpoint = read_checkpoint(trial)
        if checkpoint is None:
            dangling += 1
        elif trial.number not in removed:
            try:
                state = download(store, checkpoint)
                dangling += state["parts"]["history"] != trial.user_attrs["history"]
            except CheckpointError:
                dangling += 1
    return dangling
