"""Results of runs whose derivatives grow, as ``autodiff.hypergradient`` returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Growth:
    """A growth by the same factor at each step."""

    to_end: NDArray[np.float64]
    trust: Mapping[str, float] = field(default_factory=dict)
    dominated: int = 0
    damped: float = 0.0
    total: float = 0.0


@dataclass
class Result:
    gradient: Mapping[str, Any]
    growth: Growth | None


def growing(total: float, steps: int = 50, **more: Any) -> Growth:
    """A growth by 10^total over some steps."""
    to_end = total * np.arange(steps, 0, -1) / steps
    dominated = int((to_end >= 2.0).sum())
    return Growth(**{"to_end": to_end, "dominated": dominated, "total": max(total, 0.0)} | more)
