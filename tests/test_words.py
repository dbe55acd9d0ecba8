"""Names and prose use the field's words: private words that were replaced do not come back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "optuna_hypergrad"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]


class Replaced(NamedTuple):
    """Words that no name of the package contains, and the words that are used instead."""

    words: str
    instead: str
    room: str = ""  # the only room that the rule is for

    def matches(self, name: str, module: str) -> bool:
        return module.startswith(self.room) and not parts(name).isdisjoint(self.words.split())


NAMES = [
    Replaced("advance retreat", "step_jvp, step_vjp", room="autodiff"),
    Replaced("ahead", "snapshot, or what happens"),
    Replaced("along", "directions"),
    Replaced("ancestor ancestors", "parent, lineage, SegmentRecord"),
    Replaced("blame", "diagnose"),
    Replaced("breeding", "PopulationConfig"),
    Replaced("carried", "TrainState"),
    Replaced("columns", "tangents", room="autodiff"),
    Replaced("descended", "rprop_step"),
    Replaced("family", "population"),
    Replaced("foretell foretold", "predict"),
    Replaced("founder founders", "warm_start"),
    Replaced("handed", "hyperparameters_after"),
    Replaced("hyper hypers", "hparam, hparams"),
    Replaced("inherit inherited inherits", "exploit, restored"),
    Replaced("keeper", "checkpoints, memory"),
    Replaced("lived lives", "lineage"),
    Replaced("mutant mutants", "clone, MutationRecord"),
    Replaced("needing perhaps whole", "optional_import, optional_int, int_"),
    Replaced("nought", "zero"),
    Replaced("player", "Recomputation"),
    Replaced("reached", "grad_mask"),
    Replaced("recall watching", "results, reporting"),
    Replaced("retention", "checkpoint garbage collection"),
    Replaced("slope slopes", "gradient, derivative", room="autodiff"),
    Replaced("slope slopes", "q as in the papers", room="samplers/population"),
    Replaced("student students", "member (a place), segment (what one trial trains)"),
    Replaced("surrounding surroundings", "Snapshot, Snapshotter"),
    Replaced("tell telling tells told", "log, describe, report"),
    Replaced("trait traits", "hyperparameters"),
    Replaced("tryout", "preflight, choose_hvp"),
    Replaced("turn turns", "assignment"),
    Replaced("way ways", "method"),
]
ALLOWED = {
    "hypers": "public argument of hypergradient, public attribute of updates",
    "student": "public argument and attribute of HyperTraining",
    "students": "public function",
}
# Layers of self-tuning networks, with their paper's word.
SELF_TUNING = re.compile(r"Hyper(Conv2d|Dropout|Embedding|Layer|Linear|LSTMCell|Noise|Training)")

PROSE = {  # patterns that neither pages nor docstrings, comments and messages contain
    r"be content with": "use",
    r"breeding": "population",
    r"foretell\w*|foretold": "predict",
    r"founders?": "first segment",
    r"nought": "zero, nothing",
    r"of whatever kind": "any",
    r"so many": "the number",
    r"surroundings?": "snapshot",
    r"to be had": "available",
    r"tryout": "preflight",
    r"what has this name": "say what is returned",
}
PAGES_ALONE = {  # patterns that pages do not contain
    r"inherit(?:s|ed)?": "restore, exploit",
    r"mutants?": "clone",
    r"students?": "member, segment",
    r"told|telling": "log, say",
    r"traits?": "hyperparameters",
}


def parts(name: str) -> set[str]:
    """The words of a name in snake or camel case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


@cache
def defined() -> list[tuple[str, int, str]]:
    """Modules of the package, with the names that they define and their lines."""
    found = []
    for path in MODULES:
        module = str(path.relative_to(PACKAGE))
        found.append((module, 1, path.stem))
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.append((module, node.lineno, node.name))
                case ast.arg():
                    found.append((module, node.lineno, node.arg))
                case ast.Name(ctx=ast.Store()):
                    found.append((module, node.lineno, node.id))
                case ast.Attribute(ctx=ast.Store()):
                    found.append((module, node.lineno, node.attr))
                case ast.alias(asname=str() as name):
                    found.append((module, node.lineno, name))
    return [one for one in found if one[2] not in ALLOWED and not SELF_TUNING.fullmatch(one[2])]


@cache
def prose(path: Path) -> str:
    """A page without code, or the strings and comments of a module, one a line."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.sub(r"`[^`\n]+`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = (tokenize.STRING, tokenize.COMMENT)
    return "\n".join(token.string for token in tokens if token.type in kinds)


@pytest.mark.parametrize("replaced", NAMES, ids=lambda replaced: replaced.words)
def test_names_use_the_words_of_the_field(replaced: Replaced) -> None:
    found = [one for one in defined() if replaced.matches(one[2], one[0])]
    assert not found, f"instead of {replaced.words!r}, use {replaced.instead}: {found}"


@pytest.mark.parametrize("pattern", [*PROSE, *PAGES_ALONE])
def test_prose_uses_plain_words(pattern: str) -> None:
    line = re.compile(rf"^.*\b(?:{pattern})\b.*$", re.IGNORECASE | re.MULTILINE)
    paths = [*PAGES, *MODULES] if pattern in PROSE else PAGES
    found = [
        f"{path.relative_to(ROOT)}: {text}" for path in paths for text in line.findall(prose(path))
    ]
    instead = {**PROSE, **PAGES_ALONE}[pattern]
    assert not found, f"instead of {pattern!r}, write {instead}: {found}"
