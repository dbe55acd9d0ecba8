"""The part of a study's note that is ours, and how it is kept apart from what people write."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.study import Study

# Link definitions, which Markdown does not show.
BEGIN = "[//]: # (optuna_hypergrad: written by publish, from here)"
END = "[//]: # (optuna_hypergrad: to here)"
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
    head, begin, tail = note.partition(BEGIN)
    if not begin:
        return f"{note.rstrip()}\n\n{ours}" if note.strip() else ours
    _, _, rest = tail.rpartition(END)
    return f"{head}{ours}{rest}" if END in tail else f"{head}{ours}"


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
    return text.replace("|", "\\|").replace("\n", " ")
