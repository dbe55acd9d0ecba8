"""Hyperparameters that differ between the parameters of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.autodiff.updates.protocol import (
    Hyper,
    State,
    Update,
    Values,
    check_wrapped,
    checked_hypers,
    evaluated,
    trained,
)

Members = Iterable[nn.Parameter] | Callable[[str, nn.Parameter], bool]
Group = Mapping[str, Hyper | Members]


class ParameterGroups:
    """An update some of whose hyperparameters differ between groups of parameters.

    Written as torch's ``param_groups``: each group is a mapping with ``"params"`` and the
    hyperparameters that are its own. All others, and those of parameters in no group, are the
    update's. Group ``i``'s own learning rate is the hyperparameter ``lr[i]``, a number or a
    ``Schedule`` like any other. ``"lr": 0.0`` leaves the weights of a group as they are; so does
    ``requires_grad_(False)``, which costs less.

    Args:
        update: The inner update.
        model: The model that is trained. Which of its parameters require a gradient must not
            change afterwards.
        groups: The groups. ``"params"`` are parameters of the model, or a function of a
            parameter's name and the parameter that says whether it is in the group. Those that
            require no gradient are in none, tied ones count once, under their first name.

    Raises:
        ValueError: If a group has no parameters, or some of another model, a parameter is in two
            groups, or a group names a hyperparameter that the update does not have.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff.updates import AdamW, ParameterGroups
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> update = ParameterGroups(
        ...     AdamW(Schedule("lr", [1e-3]), weight_decay=0.1),
        ...     model,
        ...     [
        ...         {"params": lambda name, parameter: parameter.ndim == 1, "weight_decay": 0.0},
        ...         {"params": [model[1].weight], "lr": Schedule("head_lr", [1e-2])},
        ...     ],
        ... )
        >>> update.hypers["weight_decay[0]"], update.hypers["lr[1]"].names
        (0.0, ('head_lr',))
    """

    def __init__(self, update: Update, model: nn.Module, groups: Sequence[Group]) -> None:
        check_wrapped(update, {})
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        self.update = update
        self._own = _own_hypers(update, groups)
        check_wrapped(update, self._own)
        self._masks = _masks(model, groups)

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name: the update's own, and those of the groups."""
        return {**self.update.hypers, **self._own}

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``."""
        spread = {name: self._spread(name, hypers, weights) for name in self.update.hypers}
        return self.update(weights, state, gradient, spread)

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """The weights to validate; see ``evaluated``."""
        return evaluated(self.update, weights, state)

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """The weights to train on from; see ``trained``."""
        return trained(self.update, weights, state)

    def _spread(self, name: str, hypers: Values, like: Tensor) -> float | Tensor:
        """The value for each weight, shape (D,); where no group has its own, the value itself."""
        value = hypers[name]
        for number, mask in enumerate(self._masks):
            theirs = hypers.get(_key(name, number))
            if theirs is not None:
                own, other = (_tensor(v, like) for v in (theirs, value))
                value = torch.where(mask.to(like.device), own, other)
        return value


def _key(name: str, number: int) -> str:
    return f"{name}[{number}]"


def _tensor(value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _own_hypers(update: Update, groups: Sequence[Group]) -> dict[str, Hyper]:
    own: dict[str, object] = {}
    check_kind("groups", groups, list | tuple, "a list of mappings")
    for number, group in enumerate(groups):
        check_kind(f"groups[{number}]", group, Mapping, "a mapping with 'params'")
        for name in [key for key in group if key != "params"]:
            if name not in update.hypers:
                known = ", ".join(update.hypers)
                raise ValueError(f"groups[{number}]: {name!r} is none of {known}.")
            own[_key(name, number)] = group[name]
    return checked_hypers(own)


def _masks(model: nn.Module, groups: Sequence[Group]) -> list[Tensor]:
    """Which weights are in each group, shape (D,)."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen = [_names(model, number, group) & learned.keys() for number, group in enumerate(groups)]
    for number, names in enumerate(chosen):
        if not names:
            raise ValueError(f"groups[{number}]: no parameter that requires a gradient is in it.")
    for name, count in Counter(name for names in chosen for name in names).items():
        if count > 1:
            raise ValueError(f"groups: the parameter {name!r} is in {count} of them.")
    return [_mask(learned, names) for names in chosen]


def _mask(learned: Mapping[str, nn.Parameter], names: Set[str]) -> Tensor:
    flags = [torch.full_like(p, name in names, dtype=torch.bool) for name, p in learned.items()]
    return torch.cat([flag.flatten() for flag in flags])


def _names(model: nn.Module, number: int, group: Group) -> set[str]:
    members, parameters = group.get("params"), dict(model.named_parameters())
    if callable(members) and not isinstance(members, nn.Module):
        return {name for name, p in parameters.items() if members(name, p)}
    if isinstance(members, Iterable):
        wanted = {id(p) for p in ((members,) if isinstance(members, Tensor) else members)}
        names = {name for name, p in parameters.items() if id(p) in wanted}
        if len(names) == len(wanted):
            return names
    raise ValueError(
        f"groups[{number}]: 'params' must be parameters of the model, or a function of a "
        f"parameter's name and the parameter; got a {type(members).__name__}."
    )
