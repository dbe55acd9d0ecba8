"""Hyperparameters that differ between the parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.autodiff.updates import protocol
from optuna_hypergrad.autodiff.updates.protocol import Hparam, State, Update, Values
from optuna_hypergrad.autodiff.updates.wrappers import Wrapper

Parameters = Iterable[nn.Parameter] | Callable[[str, nn.Parameter], bool]
Group = Mapping[str, Hparam | Parameters]


class ParameterGroups(Wrapper):
    """An update with hyperparameters that differ between groups of parameters.

    Groups are written as torch's ``param_groups``: mappings with ``"params"`` and hyperparameters
    of the group. All other values, and those of parameters in no group, are the update's. The
    learning rate of group ``i`` is the hyperparameter ``lr[i]``, a number or a ``Schedule`` like
    any other. ``"lr": 0.0`` freezes the weights of a group; ``requires_grad_(False)`` does, too,
    and costs less.

    Args:
        update: The inner update.
        model: The trained model. Which of its parameters require a gradient must not change
            afterwards.
        groups: The groups. ``"params"`` are parameters of the model, or a function of a
            parameter's name and the parameter that says whether it is in the group. Parameters
            that require no gradient are in none; tied ones count once, under their first name.

    Raises:
        ValueError: If a group has no parameters or some of another model, a parameter is in two
            groups, or a group has a hyperparameter that the update lacks.

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
        protocol.check_update(update)
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        check_kind("groups", groups, list | tuple, "a list of mappings")
        self.update = update
        own: dict[str, object] = {}
        for number, group in enumerate(groups):
            check_kind(f"groups[{number}]", group, Mapping, "a mapping with 'params'")
            for name, value in group.items():
                if name != "params" and name not in update.hypers:
                    known = ", ".join(update.hypers)
                    raise ValueError(f"groups[{number}]: {name!r} is none of {known}.")
                own |= {_key(name, number): value} if name != "params" else {}
        self._of_groups = protocol.checked_hparams(own)
        self._check()
        self._masks = _masks(model, groups)

    @property
    def _own(self) -> dict[str, Hparam]:
        """The hyperparameters of the groups by name."""
        return self._of_groups

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """Take one step; see ``Update``."""
        spread = {name: self._spread(name, hypers, weights) for name in self.update.hypers}
        return self.update(weights, state, gradient, spread)

    def _spread(self, name: str, hypers: Values, like: Tensor) -> float | Tensor:
        """Return the value for each weight, shape (D,), or the value itself if groups agree."""
        value = hypers[name]
        for number, mask in enumerate(self._masks):
            if _key(name, number) in hypers:
                own, other = _tensor(hypers[_key(name, number)], like), _tensor(value, like)
                value = torch.where(mask.to(like.device), own, other)
        return value


def _key(name: str, number: int) -> str:
    return f"{name}[{number}]"


def _tensor(value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _masks(model: nn.Module, groups: Sequence[Group]) -> list[Tensor]:
    """Return which weights are in each group, shape (D,)."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    masks, taken = [], dict.fromkeys(learned, 0)
    for number, group in enumerate(groups):
        names = _names(model, number, group)
        if names.isdisjoint(learned):
            raise ValueError(f"groups[{number}]: no parameter that requires a gradient is in it.")
        flags = [torch.full_like(p, n in names, dtype=torch.bool) for n, p in learned.items()]
        masks.append(torch.cat([flag.flatten() for flag in flags]))
        taken.update({name: taken[name] + 1 for name in names & learned.keys()})
    for name, count in taken.items():
        if count > 1:
            raise ValueError(f"groups: the parameter {name!r} is in {count} of them.")
    return masks


def _names(model: nn.Module, number: int, group: Group) -> set[str]:
    chosen, parameters = group.get("params"), dict(model.named_parameters())
    if callable(chosen) and not isinstance(chosen, nn.Module):
        return {name for name, p in parameters.items() if chosen(name, p)}
    if isinstance(chosen, Iterable):
        ids = {id(p) for p in ((chosen,) if isinstance(chosen, Tensor) else chosen)}
        names = {name for name, p in parameters.items() if id(p) in ids}
        if len(names) == len(ids):
            return names
    raise ValueError(
        f"groups[{number}]: 'params' must be parameters of the model, or a function of a "
        f"parameter's name and the parameter; got a {type(chosen).__name__}."
    )
