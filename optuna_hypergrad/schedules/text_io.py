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
from typing import Any

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.schedules.forms import parameter_names

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


def write_csv(records: Collection[Record]) -> str:
    """Write a table with one row for each value of each record."""
    out = io.StringIO()
    # csv.writer does not quote a lone carriage return by itself.
    quote_all = any("\r" in record["name"] for record in records)
    table = csv.writer(
        out, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    )
    table.writerow(COLUMNS)
    for record in records:
        names = parameter_names(record["name"], len(record["values"]))
        for name, value in zip(names, record["values"], strict=True):
            table.writerow([record["name"], record["form"], int(record["log"]), name, repr(value)])
    return out.getvalue()


def read_csv(text: Any) -> list[Record]:
    """Read the records that ``write_csv`` wrote; their values are still text.

    Raises:
        ValueError: If ``text`` is not such a table, or rows are missing or out of order.
    """
    check_kind("text", text, str, "a string")
    try:
        lines = csv.reader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK)))
        header, *rows = [row for row in lines if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"text: not CSV: {error}.") from error
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"text: expected CSV with the columns {', '.join(COLUMNS)}.")
    return [_record([*group]) for _, group in groupby(rows, key=lambda row: row[0])]


def _record(rows: list[list[str]]) -> Record:
    name, form, log = rows[0][:3]
    if any(row[:3] != [name, form, log] for row in rows) or log not in ("0", "1"):
        raise ValueError(f"text: the rows of {name!r} must agree in form, and in log: 0 or 1.")
    expected, found = parameter_names(name, len(rows)), tuple(row[3] for row in rows)
    if found != expected:
        raise ValueError(f"text: expected rows for {expected} in order, got {found}.")
    return {"name": name, "form": form, "log": log == "1", "values": [row[4] for row in rows]}
