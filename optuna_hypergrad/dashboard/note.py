"""The part of a study's note that is ours, and how it is kept apart from what people write."""

from __future__ import annotations

import re
from collections.abc import Sequence

from optuna.study import Study

# Link definitions, which Markdown does not show.
BEGIN = "[//]: # (optuna_hypergrad: written by publish, from here)"
END = "[//]: # (optuna_hypergrad: to here)"
MARK = f"(?:{re.escape(BEGIN)}|{re.escape(END)})"
PART = re.compile(f"{re.escape(BEGIN)}(?:(?!{MARK}).)*{re.escape(END)}", re.DOTALL)
LONE = re.compile(rf"{MARK}\s*")  # a mark whose other half is gone
MARKUP = re.compile(r"[\\`*_<>\[\]$|~&]")  # what a cell must not be made of, but may say
ROWS = 40  # of a table
SPACE = "\N{EM SPACE}"  # the dashboard leaves none between columns


def publish_note(study: Study, text: str) -> None:
    """Store our part of the study's note, if it has changed."""
    from optuna_dashboard import get_note, save_note

    before = get_note(study)
    after = merged(before, text)
    if after != before:
        save_note(study, after)


def merged(note: str, text: str) -> str:
    """A note with our part replaced, or appended where there is none.

    All that people wrote stays. Where one mark is gone, nobody can tell our words from theirs: all
    stay, and the other mark goes. Of several parts, which workers that publish at once can leave,
    the first is replaced and the others go.

    Example:
        >>> print(merged(merged("My own words.", "A table."), "A newer table."))
        My own words.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: written by publish, from here)
        <BLANKLINE>
        A newer table.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: to here)
    """
    ours = f"{BEGIN}\n\n{text}\n\n{END}"
    before, *after = (LONE.sub("", words) for words in PART.split(note))
    if not after:
        before = before.rstrip() and f"{before.rstrip()}\n\n"
    return "".join([before, ours, *after])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, of not too many rows.

    Example:
        >>> print(table(["name", "value"], [["a|b", 1 / 3]]).replace(SPACE, "~"))
        | name~ | value~ |
        | :--- | ---: |
        | a\\|b~ | 0.3333~ |
    """
    lines = [_line(head), f"| :--- |{' ---: |' * (len(head) - 1)}", *map(_line, rows[:ROWS])]
    left = len(rows) - ROWS
    return "\n".join(lines) + (f"\n\n… and {left} more rows." if left > 0 else "")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_cell(cell) + SPACE for cell in cells)} |"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))
