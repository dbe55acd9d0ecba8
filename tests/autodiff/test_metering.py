"""Time and memory as they are measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scripts
from optuna_hypergrad.autodiff.recompute import memory as metering
from optuna_hypergrad.autodiff.recompute.memory import metered

CPU = torch.device("cpu")
MEBIBYTE = 2**20


# In a process of its own: other libraries change how freed memory is given back.
PROGRAM = """
import torch
from optuna_hypergrad.autodiff.recompute.memory import metered, resetting

MEBIBYTE, CPU = 2**20, torch.device("cpu")
before = torch.ones(8 * MEBIBYTE)
def work():
    passing = torch.ones(16 * MEBIBYTE, dtype=torch.float32)
    del passing
    return torch.ones(4 * MEBIBYTE, dtype=torch.float32)
def peak():
    return next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
with metered(CPU) as cost:
    held = work()
highest = peak()
with metered(CPU) as lower:
    small = torch.ones(MEBIBYTE, dtype=torch.float32)
unchanged = peak() == highest
with metered(CPU) as higher:
    more = torch.ones(64 * MEBIBYTE, dtype=torch.float32)
del more
with resetting(), metered(CPU) as reset:
    held = work()
with resetting(), metered(CPU) as nothing:
    pass
print(cost.bytes, lower.bytes, unchanged, higher.bytes, reset.bytes, nothing.bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_the_peak_counts_and_what_was_there_before_does_not() -> None:
    """A peak below an earlier one is unknown, unless peaks of the process may be reset."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    first, lower, unchanged, higher, reset, nothing = done.stdout.decode().split()
    assert int(first) == pytest.approx(64 * MEBIBYTE, rel=0.1)
    assert lower == "None" and unchanged == "True"
    assert int(higher) == pytest.approx(256 * MEBIBYTE, rel=0.1)
    assert int(reset) == pytest.approx(64 * MEBIBYTE, rel=0.3)
    assert int(nothing) < 8 * MEBIBYTE


RUN = """
import torch
from torch import nn
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
passing = torch.ones(256 * 2**20, dtype=torch.uint8)
del passing
before = peak()
x = torch.ones(8, 4)
for mode in ("forward", "reverse", "auto"):
    loss = lambda model, batch: model(batch).square().mean()
    update = SGD(Schedule("lr", [0.1]))
    hypergradient(nn.Linear(4, 1), loss, update, [x], x, steps=40, mode=mode)
print(before, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_a_run_leaves_the_peak_of_the_process_as_it_is() -> None:
    done = scripts.run("-c", RUN)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after >= before > 256 * 1024


def test_memory_is_none_if_the_system_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_CLEAR", tmp_path / "missing" / "clear_refs")
    torch.ones(64 * MEBIBYTE, dtype=torch.float32)  # an earlier peak, which is not reached again
    with metering.resetting(), metered(CPU) as cost:
        pass
    assert cost.bytes is None and cost.seconds >= 0
