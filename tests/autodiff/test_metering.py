"""Time and memory as they are measured."""

from pathlib import Path

import pytest
import torch

from optuna_hypergrad.autodiff import metering
from optuna_hypergrad.autodiff.metering import metered

CPU = torch.device("cpu")
MEBIBYTE = 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_the_peak_counts_and_what_was_there_before_does_not() -> None:
    before = torch.ones(8 * MEBIBYTE)
    with metered(CPU) as cost:
        passing = torch.ones(16 * MEBIBYTE, dtype=torch.float32)
        del passing
        held = torch.ones(4 * MEBIBYTE, dtype=torch.float32)
    with metered(CPU) as second:
        pass
    assert cost.bytes == pytest.approx(64 * MEBIBYTE, rel=0.1)
    assert second.bytes is not None and second.bytes < 8 * MEBIBYTE
    assert before.sum() > held.sum()


def test_where_the_system_does_not_tell_memory_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_CLEAR", tmp_path / "missing" / "clear_refs")
    with metered(CPU) as cost:
        pass
    assert cost.bytes is None and cost.seconds >= 0
