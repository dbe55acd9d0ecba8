"""Checkpoints of members: safetensors and JSON in an Optuna artifact store, without pickle."""

from optuna_hypergrad.checkpoints.encoding import (
    CheckpointError,
    UnreachableError,
    check,
    decode,
    encode,
)
from optuna_hypergrad.checkpoints.resuming import load_optimizer, rng_state, set_rng_state
from optuna_hypergrad.checkpoints.store import FILENAME, download, remove, upload
from optuna_hypergrad.reports.segments import Checkpoint

__all__ = [
    "FILENAME",
    "Checkpoint",
    "CheckpointError",
    "UnreachableError",
    "check",
    "decode",
    "download",
    "encode",
    "load_optimizer",
    "remove",
    "rng_state",
    "set_rng_state",
    "upload",
]
