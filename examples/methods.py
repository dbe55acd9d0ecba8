"""Population-based methods as arguments of PopulationSampler."""

from __future__ import annotations

from typing import Any

TEACHER = {"mutation": "teacher"}
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "HPM": TEACHER,
    "HPM, MLP teacher": {**TEACHER, "activation": "leaky_relu"},
    "HPM, bare teacher": {**TEACHER, "resample_probability": 0.0},
    "HPM w/o T, perturbation": {"mutation": "perturb"},
    "HPM w/o T, one more step": {"mutation": "hypergradient"},
    "HPM w/o T, resampling only": {"mutation": "resample"},
    "HPM w/o hypertraining": {**TEACHER, "refine": False},
    "PBT": {"refine": False, "mutation": "perturb"},
    "STN + random starts": {"truncation": 0.0},
    "STN": {"population_size": 1},
}
