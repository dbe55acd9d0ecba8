"""The texts of a chart, some of which users have chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from optuna_hypergrad.visualization.charts.marks import Axis, Chart, Mark, Panel, Scale

P = TypeVar("P", Axis, Chart, Mark, Panel, Scale)


def with_texts(part: P, told: Callable[[str], str]) -> P:
    """A chart, or a part of one, whose texts have all gone through a function.

    Example:
        >>> with_texts(Axis("loss", ticks={1.0: "one"}), str.upper).ticks
        {1.0: 'ONE'}
    """
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: _told(name, value, told) for name, value in values.items()})


def _told(name: str, value: Any, told: Callable[[str], str]) -> Any:
    if name in ("title", "label", "message", "name") and value is not None:
        return told(value)
    if name == "texts":
        return [told(text) for text in value]
    if name == "ticks" and value is not None:
        return {at: told(text) for at, text in value.items()}
    if name in ("panels", "marks"):
        return [with_texts(one, told) for one in value]
    if isinstance(value, Axis):
        return with_texts(value, told)
    return with_texts(value, told) if isinstance(value, Scale) else value
