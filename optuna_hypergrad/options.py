"""Options of torch optimizers by name, for every argument ``uses``.

A name is ``[optimizer.][group.]option[.index]``: ``lr`` is the learning rate of all parameter
groups, ``betas.0`` the first of a tuple, ``1.lr`` the learning rate of the second group, and
``critic.lr`` that of the optimizer ``critic``, where optimizers have names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

Group = dict[str, Any]  # of ``optimizer.param_groups``

_ALIASES = {"beta1": "betas.0", "beta2": "betas.1"}
_PATTERN = re.compile(r"(?:([^\W\d]\w*)\.)?(?:(\d+)\.)?([^\W\d]\w*)(?:\.(\d+))?")


@dataclass(frozen=True)
class Option:
    """An option of the parameter groups of an optimizer."""

    name: str
    index: int | None = None  # in a tuple, such as ``betas``
    group: int | None = None  # None for all
    optimizer: str | None = None  # None for all

    @classmethod
    def parse(cls, text: str) -> Option:
        """Read a name of the form ``[optimizer.][group.]option[.index]``."""
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            message = "an option is like 'lr', 'betas.0', '1.lr' or 'critic.lr'"
            raise ValueError(f"uses: {message}, got {text!r}.")
        optimizer, group, name, index = found.groups()
        return cls(name, _optional_int(index), _optional_int(group), optimizer)

    def groups(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups that it is an option of."""
        return groups if self.group is None else groups[self.group : self.group + 1]

    def values(self, groups: Sequence[Group]) -> list[Any]:
        """Its values in those of its groups that have it."""
        found = [group[self.name] for group in self.groups(groups) if self.name in group]
        if self.index is None:
            return found
        return [
            parts[self.index]
            for parts in found
            if isinstance(parts, tuple | list) and self.index < len(parts)
        ]

    def overlaps(self, other: Option) -> bool:
        """Whether both are the same option of some group."""
        same_group = None in (self.group, other.group) or self.group == other.group
        return same_group and (self.name, self.index) == (other.name, other.index)

    def write(self, groups: Sequence[Group], value: float) -> None:
        """Set it; a tensor, which a captured graph may hold, keeps its identity."""
        for group in self.groups(groups):
            if self.index is None:
                group[self.name] = _replaced(group[self.name], value)
            else:
                parts = list(group[self.name])
                parts[self.index] = _replaced(parts[self.index], value)
                group[self.name] = type(group[self.name])(parts)


def match_options(
    names: Sequence[str], uses: Mapping[str, str], groups: Sequence[Group]
) -> dict[str, Option]:
    """Find the option of each hyperparameter; each must be a number in all of its groups.

    Hyperparameters that are not in ``uses`` have the option of the same name; ``beta1`` and
    ``beta2`` are the parts of ``betas``. Groups that share a tensor, as torch lets them, get one
    each where an option names a group.

    Raises:
        ValueError: If there is no such option, or two hyperparameters have the same one.
    """
    unknown = [name for name in uses if name not in names]
    if unknown:
        raise ValueError(f"uses: {unknown[0]!r} is none of the schedules ({', '.join(names)}).")
    found: dict[str, Option] = {}
    for name in names:
        option = Option.parse(uses[name]) if name in uses else Option(name)
        if name in _ALIASES and name not in uses and not _is_numeric(option, groups):
            option = Option.parse(_ALIASES[name])
        if not _is_numeric(option, groups):
            raise ValueError(
                f"schedules: {uses.get(name, name)!r} is no option of the optimizer "
                f"({', '.join(_numeric_names(groups[0]))}); leave {name!r} out, or name its option "
                "in ``uses``."
            )
        for other, taken in found.items():
            if option.overlaps(taken):
                raise ValueError(f"uses: {other!r} and {name!r} are the same option.")
        found[name] = option
    for option in found.values():
        if option.group is not None and isinstance(groups[option.group][option.name], Tensor):
            groups[option.group][option.name] = groups[option.group][option.name].clone()
    return found


def _is_numeric(option: Option, groups: Sequence[Group]) -> bool:
    """Whether it is a number in each of its groups, and has at least one group."""
    values, own = option.values(groups), option.groups(groups)
    is_complete = option.optimizer is None and option.name != "params" and len(values) == len(own)
    return bool(own) and is_complete and all(_is_number(value) for value in values)


def _numeric_names(group: Group) -> list[str]:
    found: list[str] = []
    for name, value in group.items():
        if _is_number(value):
            found.append(name)
        elif name != "params" and isinstance(value, tuple | list):
            found += [f"{name}.{i}" for i, part in enumerate(value) if _is_number(part)]
    return found


def _optional_int(text: str | None) -> int | None:
    return None if text is None else int(text)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, Real) and not isinstance(value, bool)


def _replaced(old: Any, value: float) -> Any:
    return old.fill_(value) if isinstance(old, Tensor) else value
