"""What the objective of a population uses: the checkpoint and lineage of its member."""

from typing import Any

from optuna_hypergrad.arguments import renamed
from optuna_hypergrad.members.handle import Keep, MemberHandle, begin

__all__ = ["Keep", "MemberHandle", "begin"]


def __getattr__(name: str) -> Any:
    return renamed(__name__, name, {"Member": "MemberHandle"})
