"""Time and memory as they are measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optuna_hypergrad.autodiff import metering
from optuna_hypergrad.autodiff.metering import metered

CPU = torch.device("cpu")
MEBIBYTE = 2**20


# In a process of its own: other libraries change how freed memory is given back.
PROGRAM = """
import torch
from optuna_hypergrad.autodiff.metering import metered

MEBIBYTE, CPU = 2**20, torch.device("cpu")
before = torch.ones(8 * MEBIBYTE)
with metered(CPU) as cost:
    passing = torch.ones(16 * MEBIBYTE, dtype=torch.float32)
    del passing
    held = torch.ones(4 * MEBIBYTE, dtype=torch.float32)
with metered(CPU) as second:
    pass
print(cost.bytes, second.bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_the_peak_counts_and_what_was_there_before_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    peak, second = map(int, done.stdout.split())
    assert peak == pytest.approx(64 * MEBIBYTE, rel=0.1)
    assert second < 8 * MEBIBYTE


def test_where_the_system_does_not_tell_memory_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_CLEAR", tmp_path / "missing" / "clear_refs")
    with metered(CPU) as cost:
        pass
    assert cost.bytes is None and cost.seconds >= 0
