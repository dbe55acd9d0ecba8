"""Training with schedules in torch, Lightning and Hugging Face transformers.

The callbacks need the extra ``integrations``; their libraries are imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.integrations.scheduler import HyperparameterScheduler

if TYPE_CHECKING:
    from optuna_hypergrad.integrations.lightning import LightningSchedules
    from optuna_hypergrad.integrations.transformers import TransformersSchedules

__all__ = ["HyperparameterScheduler", "LightningSchedules", "TransformersSchedules"]

_HOMES = {"LightningSchedules": "lightning", "TransformersSchedules": "transformers"}


def __getattr__(name: str) -> Any:
    """Import a callback and its library at first use (PEP 562)."""
    if name in _HOMES.values():
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES.values()})
