"""Optuna pruners: trials that end early because nothing more is to be learned from them."""

from optuna_hypergrad.pruners.consensus import ConsensusPruner
from optuna_hypergrad.pruners.divergence import DivergencePruner
from optuna_hypergrad.pruners.truncation import TruncationPruner

__all__ = ["ConsensusPruner", "DivergencePruner", "TruncationPruner"]
