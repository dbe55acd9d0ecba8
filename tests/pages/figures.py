"""docs/figures.md: its code draws two."""

from pathlib import Path
from typing import Any


def check_the_code_draws(page: dict[str, Any]) -> None:
    assert "fraction of training" in Path("schedules.html").read_text()
    assert Path("convergence.png").stat().st_size > 5_000
