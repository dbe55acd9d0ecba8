"""Whatever a storage holds, a worker ends with our own error or not at all."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from optuna_hypergrad import lineage
from optuna_hypergrad.reports import StoredDataError, read_growth
from optuna_hypergrad.reports import attributes as keys
from optuna_hypergrad.reports.claims import read_claim, read_drawn
from optuna_hypergrad.reports.segments import read_segment, read_teacher
from security.searches import (
    Sampler,
    copied,
    gradient_sampler,
    population_sampler,
    replayed,
    work_on,
)

KEYS = sorted({value for value in vars(keys).values() if str(value).startswith("hg:")})
KEYS.append(f"{keys.CONSTRAINT_GRADIENT}:c")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
# Nearly right, as if edited by hand, and large.
PLAUSIBLE = st.sampled_from(
    [
        *(-1, 0, 1, 2, 7, 19, 25, 10**6, 10**12, 3.7, 1e300, float("nan"), "nan", "x", True, None),
        *([], [0], [3, 3], [19], [10**9], [[0.0]], {}, {"lr_0": 1e300}, {"lr_0": "nan"}),
        *({"kind": 7.0}, {"decay": 10**9}, {"decay": [0]}, {"lr_0": -1.0}),
    ]
)
POSITIONS = st.lists(st.integers(0, 30), min_size=2, max_size=4)
Edit = Callable[[list[FrozenTrial]], None]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """Replace some attribute of a trial, or a part of it, or take it from another trial."""
    number, other = draw(st.integers(0, 21)), draw(st.integers(0, 21))
    kind, position = draw(st.sampled_from(["key", "all", "part", "other"])), draw(POSITIONS)
    key, value = draw(st.sampled_from([*KEYS, keys.RETRIED])), draw(st.one_of(PLAUSIBLE, JSON))

    def edit(trials: list[FrozenTrial]) -> None:
        one, another = trials[number], trials[other]
        pairs = (one.user_attrs, another.user_attrs), (one.system_attrs, another.system_attrs)
        for attrs, others in pairs:
            own = [*(key for key in attrs if key in KEYS), key]
            chosen = own[position[0] % len(own)]
            if kind == "part" and isinstance(attrs.get(chosen), dict | list):
                _replace(attrs[chosen], position[1:], value)
            elif kind == "other" and isinstance(others.get(chosen), dict):
                attrs[chosen] = {**others[chosen], "trial": number}
            elif kind in ("key", "all"):
                attrs[key if kind == "key" else chosen] = value

    return edit


def _replace(stored: Any, position: list[int], value: Any) -> None:
    """Put a value somewhere into a stored object, as deep as the position leads."""
    names = list(stored) if isinstance(stored, dict) else list(range(len(stored)))
    if not names:
        return
    name = names[position[0] % len(names)]
    if position[1:] and isinstance(stored[name], dict | list):
        _replace(stored[name], position[1:], value)
    else:
        stored[name] = value


bounded = settings(
    deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True
)
samplers = pytest.mark.parametrize("new", [gradient_sampler, population_sampler])


@samplers
@bounded
@given(chosen=st.lists(edits(), min_size=1, max_size=3))
def test_no_stored_attribute_crashes_a_worker(
    new: Callable[[], Sampler], chosen: list[Edit]
) -> None:
    trials, store = copied(new)
    for edit in chosen:
        edit(trials)
    for text in work_on(replayed(trials, new()), store):
        assert "trial" in text and len(text) < 2000


@pytest.mark.slow
@samplers
@settings(bounded, max_examples=4000, derandomize=False)
@given(chosen=st.lists(edits(), min_size=1, max_size=6))
def test_no_stored_attribute_of_many_crashes_a_worker(
    new: Callable[[], Sampler], chosen: list[Edit]
) -> None:
    test_no_stored_attribute_crashes_a_worker.hypothesis.inner_test(new, chosen)


@samplers
def test_what_is_not_tampered_with_raises_nothing(new: Callable[[], Sampler]) -> None:
    trials, store = copied(new)
    assert work_on(replayed(trials, new()), store) == []


# (key, field, what a hand wrote there, what the error says of it), each of a trial that has it.
DAMAGE: list[tuple[str, str, Any, str]] = [
    ("hg:claim", "step", -5, "step must be an integer"),
    ("hg:claim", "step", 1.0, "step must be an integer"),
    ("hg:claim", "step", True, "step must be an integer"),
    ("hg:claim", "chain", "1", "chain must be an integer of at least 0, got '1'"),
    ("hg:claim", "seed", -1, "seed must be an integer of at least 0, got -1"),
    ("hg:claim", "used", [0, 0], r"used must be all different, got \(0, 0\)"),
    ("hg:claim", "used", [12], "used and start must be other trials"),
    ("hg:claim", "used", "12", "used must be a list, got '12'"),
    ("hg:claim", "start", 12, "used and start must be other trials"),
    (
        "hg:claim",
        "agreement",
        {"lr_0": float("nan")},
        "must be a finite number from 0 to 1, got nan",
    ),
    ("hg:claim", "windows", {"decay": [4, 0, 4]}, "decay must hold integers of at least 1, got 0"),
    ("hg:claim", "trial", None, "trial must be an integer"),
    ("hg:drawn", "width", float("inf"), r"hg:drawn\['width'\] must be a finite number, got inf"),
    ("hg:segment", "population", 10**9, "population must be an integer of at most 1000000"),
    ("hg:segment", "population", 0, "population must be an integer of at least 1"),
    ("hg:segment", "member", 3, "member must be an integer of at most 2, got 3"),
    ("hg:segment", "generation", -5, "generation must be an integer"),
    ("hg:segment", "age", 10**6, "age must be an integer of at most"),
    ("hg:segment", "parent", 12, "parent must be another trial, got 12"),
    ("hg:segment", "study", 5, "study must be a string, got 5"),
    ("hg:segment", "values", {"lr_0": 10**400}, "int too large to convert to float"),
    ("hg:segment", "step_size", {"lr_0": float("nan")}, "must be a finite number from 0 to 1"),
    ("hg:segment", "sign", {"lr_0": 7}, "must be a finite number from -1 to 1, got 7"),
    ("hg:segment", "queried", {"lr_0": 1e300}, "must be a finite number from 0 to 1"),
    ("hg:segment", "resampled", ["a", "a"], "resampled must be all different"),
    ("hg:segment", "mutation", {"lr_0": "magic"}, "lr_0 must be one of 'teacher', 'perturbed'"),
    ("hg:segment", "refinement", ["lr_0"], "refinement must be an object with names"),
    ("hg:segment", "before", {"lr_0": 2.0}, "must be a finite number from 0 to 1, got 2"),
    ("hg:growth_to_end", "steps", 1, "to_end must be of steps below 1, got 1"),
    ("hg:growth_to_end", "dominated", 5, "dominated must be an integer of at most 4, got 5"),
    ("hg:growth_to_end", "trust", {"lr_0": 7}, "must be a finite number from 0 to 1, got 7"),
    ("hg:growth_to_end", "run", {"total": 1.0}, "damped is missing"),
    ("hg:growth_to_end", "to_end", {"x": 1.0}, "invalid literal for int"),
    ("hg:growth_to_end", "to_end", {"0": 10**400}, "int too large to convert to float"),
    ("hg:teacher", "keys", [[0.0]], "keys must have 11 rows"),
    ("hg:teacher", "values", [], "values must have .* rows, as names has, got 0"),
    ("hg:teacher", "names", ["a", "a"], "names must be all different"),
    ("hg:teacher", "mean_square", -1.0, "mean_square must be a finite number"),
    ("hg:teacher", "activation", "relu", "activation must be one of 'softmax', 'leaky_relu'"),
    ("hg:teacher", "upto", 10**9, "upto must be an integer of at most"),
    ("hg:teacher", "pending", [-1], "pending must hold integers of at least 0"),
]


@pytest.mark.parametrize("key, field, value, message", DAMAGE)
def test_an_edit_by_hand_is_named(key: str, field: str, value: Any, message: str) -> None:
    new = gradient_sampler if key in ("hg:claim", "hg:drawn") else population_sampler
    trials, _ = copied(new)
    (*_, trial) = (t for t in trials if key in t.system_attrs and t.number <= 12)
    value = trial.number if value == 12 else [trial.number] if value == [12] else value
    trial.system_attrs[key] |= {field: value}
    message = message.replace("got 12", f"got {trial.number}")
    with pytest.raises(
        StoredDataError, match=rf"^trial {trial.number}: {key} is damaged: .*{message}"
    ):
        READERS[key](trial)


READERS: dict[str, Callable[[FrozenTrial], Any]] = {
    "hg:claim": lambda trial: read_claim(trial.number, trial.system_attrs),
    "hg:drawn": read_drawn,
    "hg:growth_to_end": read_growth,
    "hg:segment": lambda trial: read_segment(trial.number, trial.system_attrs),
    "hg:teacher": lambda trial: read_teacher(trial.number, trial.system_attrs),
}


def test_a_lineage_that_runs_in_a_circle_is_refused() -> None:
    trials, _ = copied(population_sampler)
    segments = {t.number: t.system_attrs.get("hg:segment", {}) for t in trials}
    child = max(n for n in range(20) if segments[n].get("parent") is not None)
    parent = segments[child]["parent"]
    segments[parent] |= {"parent": child}
    study = replayed(trials, population_sampler())
    with pytest.raises(StoredDataError, match="must be of a generation before"):
        lineage(study, parent)


def test_a_decision_of_a_retried_trial_is_its_own_and_that_of_a_copy_is_not() -> None:
    trials, _ = copied(population_sampler)
    attrs = {**trials[4].system_attrs, "failed_trial": 4}
    retried, copy = read_segment(9, attrs), read_segment(2, attrs)
    assert retried is not None and retried.trial == 4
    assert copy is None
