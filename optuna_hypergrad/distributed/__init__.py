"""One trial on several processes, which divide the tangents of forward mode."""

from optuna_hypergrad.distributed.ranks import RankError, Ranks, join
from optuna_hypergrad.distributed.training import hypergradient
from optuna_hypergrad.distributed.trials import SharedTrial, optimize

__all__ = ["RankError", "Ranks", "SharedTrial", "hypergradient", "join", "optimize"]
