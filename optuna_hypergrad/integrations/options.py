"""Where an optimizer keeps its hyperparameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

Group = dict[str, Any]  # of ``optimizer.param_groups``

_ALIASES = {"beta1": "betas.0", "beta2": "betas.1"}
_PATTERN = re.compile(r"(?:(\d+)\.)?([^\W\d]\w*)(?:\.(\d+))?")


@dataclass(frozen=True)
class Option:
    """A number among the options of parameter groups."""

    name: str
    index: int | None  # in a tuple, such as ``betas``
    group: int | None  # None for all

    @classmethod
    def of(cls, text: str) -> Option:
        """``lr`` of all groups, ``betas.0``, the first of a tuple, ``1.lr`` of the second group."""
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"uses: an option is like 'lr', 'betas.0' or '1.lr', got {text!r}.")
        group, name, index = found.groups()
        return cls(name, *(None if number is None else int(number) for number in (index, group)))

    def groups(self, groups: Sequence[Group]) -> Sequence[Group]:
        """Those that it is an option of."""
        return groups if self.group is None else groups[self.group : self.group + 1]

    def exists(self, groups: Sequence[Group]) -> bool:
        """Whether it is a number in each of its groups, of which there are some."""
        own = self.groups(groups)
        return bool(own) and all((self.name, self.index) in _numbers(group) for group in own)

    def overlaps(self, other: Option) -> bool:
        """Whether both are the same option of some group."""
        same_group = None in (self.group, other.group) or self.group == other.group
        return same_group and (self.name, self.index) == (other.name, other.index)

    def own(self, groups: Sequence[Group]) -> None:
        """Give it a tensor of its own where it is one that groups share, as torch lets them."""
        if self.group is None or not isinstance(groups[self.group][self.name], Tensor):
            return
        shared = groups[self.group][self.name]
        groups[self.group][self.name] = shared.clone()

    def write(self, groups: Sequence[Group], value: float) -> None:
        """Set it; a tensor, which a captured graph may hold, keeps its identity."""
        for group in self.groups(groups):
            if self.index is None:
                group[self.name] = _replaced(group[self.name], value)
            else:
                parts = list(group[self.name])
                parts[self.index] = _replaced(parts[self.index], value)
                group[self.name] = type(group[self.name])(parts)


def options(
    names: Sequence[str], uses: Mapping[str, str], groups: Sequence[Group]
) -> dict[str, Option]:
    """The option that each hyperparameter is.

    Args:
        names: Of the hyperparameters.
        uses: The options of some of them; others are those of the same name, and ``beta1`` and
            ``beta2`` the parts of ``betas``.
        groups: The optimizer's parameter groups.

    Raises:
        ValueError: If there is no such option, or two hyperparameters are the same one.
    """
    unknown = [name for name in uses if name not in names]
    if unknown:
        raise ValueError(f"uses: {unknown[0]!r} is none of the schedules ({', '.join(names)}).")
    found: dict[str, Option] = {}
    for name in names:
        option = Option.of(uses[name]) if name in uses else _of_same_name(name, groups)
        if not option.exists(groups):
            known = ", ".join(_known(groups))
            raise ValueError(
                f"schedules: {uses.get(name, name)!r} is no option of the optimizer ({known}); "
                f"leave {name!r} out, or say by ``uses`` which option it is."
            )
        for other, taken in found.items():
            if option.overlaps(taken):
                raise ValueError(f"uses: {other!r} and {name!r} are the same option.")
        found[name] = option
    for option in found.values():
        option.own(groups)
    return found


def _of_same_name(name: str, groups: Sequence[Group]) -> Option:
    option = Option(name, None, None)
    if name in _ALIASES and not option.exists(groups):
        return Option.of(_ALIASES[name])
    return option


def _numbers(group: Group) -> Iterator[tuple[str, int | None]]:
    """Names of the options that are numbers, and places of those in tuples."""
    for name, value in group.items():
        if _is_number(value):
            yield name, None
        elif name != "params" and isinstance(value, tuple | list):
            yield from ((name, i) for i, part in enumerate(value) if _is_number(part))


def _known(groups: Sequence[Group]) -> list[str]:
    """What can be named in the first group."""
    return [name if i is None else f"{name}.{i}" for name, i in _numbers(groups[0])]


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, Real) and not isinstance(value, bool)


def _replaced(old: Any, value: float) -> Any:
    return old.fill_(value) if isinstance(old, Tensor) else value
