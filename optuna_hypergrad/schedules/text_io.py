"""Schedules as text: JSON, and CSV with one row per value.

A record holds ``name``, ``form``, ``log`` and ``values``. Floats are written by ``repr``, so
reading restores them to the last bit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.arguments import check_kind

if TYPE_CHECKING:
    from optuna_hypergrad.schedules.schedule import Schedule

COLUMNS = ("name", "form", "log", "parameter", "value")
BYTE_ORDER_MARK = "\ufeff"  # spreadsheets put it first in the files that they save

Record = Mapping[str, Any]


def read_json(text: Any) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: If ``text`` is not JSON.
    """
    check_kind("text", text, str, "a string")
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"text: not JSON: {error}.") from error


def write_csv(schedules: Collection[Schedule]) -> str:
    """Write a table with one row for each value of each schedule."""
    out = io.StringIO()
    # csv.writer does not quote a lone carriage return by itself.
    quote_all = any("\r" in schedule.name for schedule in schedules)
    table = csv.writer(
        out, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    )
    table.writerow(COLUMNS)
    for schedule in schedules:
        for parameter, value in schedule.params.items():
            log = int(schedule.log)
            table.writerow([schedule.name, schedule.form, log, parameter, repr(value)])
    return out.getvalue()


def read_csv(text: Any) -> list[tuple[Record, tuple[str, ...]]]:
    """Read the records of schedules, their values still as text, and their parameters.

    Raises:
        ValueError: If ``text`` is not a table of ``write_csv``.
    """
    check_kind("text", text, str, "a string")
    try:
        lines = csv.reader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK)))
        header, *rows = [row for row in lines if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"text: not CSV: {error}.") from error
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"text: expected CSV with the columns {', '.join(COLUMNS)}.")
    return [_table([*group]) for _, group in groupby(rows, key=lambda row: row[0])]


def _table(rows: list[list[str]]) -> tuple[Record, tuple[str, ...]]:
    name, form, log = rows[0][:3]
    if any(row[:3] != [name, form, log] for row in rows) or log not in ("0", "1"):
        raise ValueError(f"text: the rows of {name!r} must agree in form, and in log: 0 or 1.")
    values = [row[4] for row in rows]
    record = {"name": name, "form": form, "log": log == "1", "values": values}
    return record, tuple(row[3] for row in rows)
