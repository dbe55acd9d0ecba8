"""Schedules as text: records in JSON, and tables in CSV with one line per value.

A record holds ``name``, ``form``, ``log`` and ``values``. Floats are written by their ``repr``, so
that what is read is what was written, to the last bit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.schedules.forms import parameter_names

COLUMNS = ("name", "form", "log", "parameter", "value")

Record = Mapping[str, Any]


def read_json(text: Any) -> Any:
    """What a JSON text holds; ValueError if it is none."""
    check_kind("text", text, str, "a string")
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"text: not JSON: {error}.") from error


BYTE_ORDER_MARK = "\ufeff"  # with which spreadsheets begin what they save


def write_csv(records: Collection[Record]) -> str:
    """A table with a line for each value of each record."""
    out = io.StringIO()
    odd = any("\r" in record["name"] for record in records)  # which the writer would not quote
    table = csv.writer(
        out, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    )
    table.writerow(COLUMNS)
    for record in records:
        first = (record["name"], record["form"], int(record["log"]))
        names = parameter_names(record["name"], len(record["values"]))
        for name, value in zip(names, record["values"], strict=True):
            table.writerow((*first, name, repr(value)))
    return out.getvalue()


def read_csv(text: Any) -> list[Record]:
    """The records that ``write_csv`` wrote, their values as text.

    Raises:
        ValueError: If the text is no such table, or lines are missing or out of order.
    """
    check_kind("text", text, str, "a string")
    lines = csv.reader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK)))
    try:
        header, *rows = [row for row in lines if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"text: not CSV: {error}.") from error
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"text: expected CSV with the columns {', '.join(COLUMNS)}.")
    values = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return [_record([*own]) for _, own in groupby(values, key=lambda line: line["name"])]


def _record(rows: Sequence[Mapping[str, str]]) -> Record:
    """The record that some lines make up."""
    name, form, log = (rows[0][column] for column in COLUMNS[:3])
    if any((row["form"], row["log"]) != (form, log) for row in rows) or log not in ("0", "1"):
        raise ValueError(f"text: the lines of {name!r} must agree in form, and in log: 0 or 1.")
    expected, found = parameter_names(name, len(rows)), tuple(row["parameter"] for row in rows)
    if found != expected:
        raise ValueError(f"text: expected rows for {expected} in order, got {found}.")
    return {"name": name, "form": form, "log": log == "1", "values": [r["value"] for r in rows]}
