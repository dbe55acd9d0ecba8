"""What two processes compute from the same seed is equal, bit for bit."""

import subprocess
import sys

import scripts

PROGRAM = """
import torch
import torch.nn.functional as F
from torch import nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

for mode in ("forward", "reverse"):
    torch.manual_seed(0)
    x, y = torch.randn(16, 5), torch.randint(3, (16,))
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
    result = hypergradient(
        model,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        SGD(Schedule("lr", [0.1, 0.2, 0.1]), momentum=Schedule("momentum", [0.5, 0.8])),
        [(x, y)],
        (x, y),
        steps=12,
        mode=mode,
    )
    print(mode, *(value.hex() for value in (*result.gradient.values(), result.loss)))
"""


def test_two_processes_give_equal_bits_in_both_modes() -> None:
    """One is a new interpreter, the other has imported many libraries."""
    new = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    first, second = (done.stdout.splitlines() for done in (new, scripts.run("-c", PROGRAM)))
    assert [line.split()[0] for line in first] == ["forward", "reverse"]
    assert first == second
