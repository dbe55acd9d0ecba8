"""Self-tuning networks: layers that learn how the best weights respond to hyperparameters."""

from optuna_hypergrad.hypernet.conditioning import Conditioning
from optuna_hypergrad.hypernet.layers import (
    HyperConv2d,
    HyperEmbedding,
    HyperLinear,
    HyperLSTMCell,
    convert,
)
from optuna_hypergrad.hypernet.regularisers import HyperDropout, HyperNoise
from optuna_hypergrad.hypernet.training import HyperTraining
from optuna_hypergrad.hypernet.transforms import (
    Bounded,
    Discrete,
    Log,
    Positive,
    Transform,
    Unbounded,
)

__all__ = [
    "Bounded",
    "Conditioning",
    "Discrete",
    "HyperConv2d",
    "HyperDropout",
    "HyperEmbedding",
    "HyperLSTMCell",
    "HyperLinear",
    "HyperNoise",
    "HyperTraining",
    "Log",
    "Positive",
    "Transform",
    "Unbounded",
    "convert",
]
