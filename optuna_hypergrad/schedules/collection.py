"""Several schedules by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.schedules import text_io
from optuna_hypergrad.schedules.schedule import Schedule


class Schedules(Mapping[str, Schedule]):
    """Schedules by name, in a fixed order; a mapping that does not change.

    Args:
        schedules: The schedules, each of another name.

    Raises:
        ValueError: If one is no ``Schedule``, or two have the same name.

    Example:
        >>> schedules = Schedules([Schedule("lr", [0.4, 0.1]), Schedule("momentum", [0.9])])
        >>> schedules.at(75, steps=100)
        {'lr': 0.1, 'momentum': 0.9}
        >>> schedules["lr"].values
        (0.4, 0.1)
        >>> print(schedules.to_csv(), end="")
        name,form,log,parameter,value
        lr,constant,0,lr_0,0.4
        lr,constant,0,lr_1,0.1
        momentum,constant,0,momentum,0.9
        >>> Schedules.from_csv(schedules.to_csv()) == schedules
        True
    """

    def __init__(self, schedules: Iterable[Schedule] = ()) -> None:
        check_kind("schedules", schedules, Iterable, "an iterable of schedules")
        self._by_name: dict[str, Schedule] = {}
        for schedule in schedules:
            check_kind("schedules", schedule, Schedule, "schedules")
            if schedule.name in self._by_name:
                raise ValueError(f"schedules: two have the name {schedule.name!r}.")
            self._by_name[schedule.name] = schedule

    def __getitem__(self, name: str) -> Schedule:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"Schedules({[*self.values()]})"

    def at(self, step: int, steps: int) -> dict[str, float]:
        """Values by name at ``step`` (counted from 0) of a run of ``steps`` steps."""
        return {name: schedule.at(step, steps) for name, schedule in self.items()}

    def to_json(self) -> str:
        """A JSON array of what ``Schedule.to_json`` writes; ``from_json`` reads it back."""
        return json.dumps([schedule.record for schedule in self.values()])

    @classmethod
    def from_json(cls, text: str) -> Schedules:
        """The schedules that ``to_json`` wrote, exactly.

        Raises:
            ValueError: If the text is something else.
        """
        records = text_io.read_json(text)
        check_kind("text", records, list, "a JSON array of schedules")
        return cls(map(Schedule.from_record, records))

    def to_csv(self) -> str:
        """One table of all: a line per value (name, form, log, parameter, value)."""
        return text_io.write_csv(self.values())

    @classmethod
    def from_csv(cls, text: str) -> Schedules:
        """The schedules that ``to_csv`` wrote, exactly.

        Raises:
            ValueError: If the text is something else.
        """
        return cls(Schedule.from_table(*table) for table in text_io.read_csv(text))
