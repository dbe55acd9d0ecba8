"""Every public name explains itself: a sentence, its arguments, an example that the tests run."""

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "optuna_hypergrad"
TWINS = "visualization.matplotlib"  # each refers to the Plotly figure of the same name
ROOMS = (
    *("", "autodiff", "autodiff.relaxations", "autodiff.updates", "dashboard", "distributed"),
    *("hypernet", "integrations", "journal", "members", "pruners", "results", "visualization"),
    TWINS,
)
# What users are given and do not make; whoever gives it has the example.
GIVEN_BY = {
    "Cost": "hypergradient",
    "Hypergradient": "hypergradient",
    "MemberHandle": "begin",
    "RankError": "optimize",
    "Ranks": "join",
    "RecomputeError": "hypergradient",
    "SharedTrial": "optimize",
}


def name_of(room: str) -> str:
    return f"{PACKAGE.name}.{room}".rstrip(".")


def exported(room: str) -> dict[str, Any]:
    """The classes and functions that a room offers; types of annotations have no docstrings."""
    module = importlib.import_module(name_of(room))
    own = [name for name, it in vars(module).items() if is_defined_in(module.__name__, it)]
    names = getattr(module, "__all__", own)
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: it for name, it in found.items() if inspect.isclass(it) or inspect.isroutine(it)}


def is_defined_in(module: str, it: object) -> bool:
    return getattr(it, "__module__", None) == module


PUBLIC = {f"{room}.{name}".strip("."): it for room in ROOMS for name, it in exported(room).items()}
EXPLAINED = {name: it for name, it in PUBLIC.items() if not name.startswith(TWINS)}


def is_protocol(it: object) -> bool:
    return getattr(it, "_is_protocol", False)


def parameters(it: Callable[..., Any]) -> list[str]:
    """What a caller names; a class is called as its constructor, an exception with a message."""
    if is_protocol(it) or (inspect.isclass(it) and issubclass(it, Exception)):
        return []
    names = inspect.signature(it).parameters
    return [name for name in names if name != "self" and not name.startswith("_")]


def documented(it: object) -> set[str]:
    """Entries under Args; without any, the fields of a record that a docstring follows."""
    text = inspect.getdoc(it) or ""
    (section,) = re.findall(r"^Args:\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE) or [""]
    found = set(re.findall(r"^    \*{0,2}(\w+):", section, re.MULTILINE))
    if inspect.isclass(it) and not section:
        found |= set(re.findall(r'^    (\w+): .*\n    """', inspect.getsource(it), re.MULTILINE))
    return found


def methods(cls: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties of a class that it does not owe to another library."""
    for name, it in vars(cls).items():
        inherited = any(name in vars(base) for base in cls.__mro__[1:] if base is not object)
        if not (name.startswith("_") or inherited):
            function = getattr(it, "__func__", it)
            if inspect.isfunction(function) or isinstance(function, property):
                yield name, function


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_opens_with_one_sentence_on_one_line(name: str) -> None:
    first, *rest = (inspect.getdoc(PUBLIC[name]) or "").splitlines() or [""]
    assert re.search(r"[.;]$|…$", first) and not (rest and rest[0].strip()), first


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_parameter_is_documented(name: str) -> None:
    it = EXPLAINED[name]
    if name.rpartition(".")[2] not in {"MemberHandle", "SharedTrial"}:  # others construct them
        assert set(parameters(it)) <= documented(it)


@pytest.mark.parametrize("name", EXPLAINED)
def test_there_is_an_example(name: str) -> None:
    it, short = EXPLAINED[name], name.rpartition(".")[2]
    if short in GIVEN_BY:
        maker = name.rpartition(".")[0] + "." + GIVEN_BY[short]
        assert ">>>" in (EXPLAINED[maker].__doc__ or "")
    elif not is_protocol(it):
        assert ">>>" in (it.__doc__ or "")


@pytest.mark.parametrize("name", [n for n, it in EXPLAINED.items() if inspect.isclass(it)])
def test_methods_are_explained(name: str) -> None:
    lacking = [method for method, it in methods(EXPLAINED[name]) if not it.__doc__]
    assert not lacking


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.startswith(TWINS)])
def test_twins_refer_to_their_figure(name: str) -> None:
    figure = name.replace(".matplotlib", "")
    assert f"``{name_of(figure)}``" in PUBLIC[name].__doc__
    assert inspect.signature(PUBLIC[name]).parameters.keys() == (
        inspect.signature(EXPLAINED[figure]).parameters.keys()
    )


def test_there_are_many() -> None:
    assert len(EXPLAINED) > 50


# What the docs name, and what Optuna's users expect: optuna.samplers.… works so, too.
REACHABLE = [room for room in ROOMS if room] + [
    *("autodiff.updates.SGD", "integrations.transformers"),
    *("reports", "samplers.GradientSampler", "schedules.Schedule"),
]
FRESH = """
import os, sys, optuna, torch, optuna_hypergrad
for path in sys.argv[1:]:
    if not (child := os.fork()):
        eval(f"optuna_hypergrad.{path}")
        os._exit(0)
    assert not os.waitpid(child, 0)[1], path
"""


@pytest.mark.slow
def test_every_room_is_reached_by_attribute_from_the_package_alone() -> None:
    """Each in a process that has imported nothing else of the package."""
    subprocess.run([sys.executable, "-c", FRESH, *REACHABLE], check=True)
