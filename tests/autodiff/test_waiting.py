"""What a step makes a device wait for: values that Python reads, and numbers copied to the device.

Counted on the CPU, where nothing waits: calls of the operations that would make a GPU wait, but for
a comparison of weights at every 32nd step, which is torch's on a GPU alone (``Run.check_weights``).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.answering import READS, Answering
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Update, hypergradient

_aten = torch.ops.aten
COPIES = (_aten.lift_fresh.default,)  # of tensors made from Python's numbers


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def calls(
    make: Callable[[], nn.Module], update: Update, steps: int, **options: Any
) -> Counter[Any]:
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(8, 6), torch.arange(8) % 3
    counted: Counter[Any] = Counter()

    def count(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        counted[func] += 1
        return func(*args, **kwargs)

    with Answering(count):
        hypergradient(model, loss_fn, update, [(x, y)], (x, y), steps=steps, **options)
    return counted


def per_step(
    operations: Sequence[Any], make: Callable[[], nn.Module], update: Update, **options: Any
) -> float:
    """Calls of operations by a further step."""
    # The first run, which may be that of the process, is checked.
    _, few, many = (calls(make, update, steps, **options) for steps in (2, 24, 40))
    return sum(many[one] - few[one] for one in operations) / 16


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1), nn.Tanh(), nn.Linear(5, 3))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


UPDATES = {
    "sgd": SGD(Schedule("lr", [0.1, 0.2]), momentum=Schedule("momentum", [0.5])),
    "adamw": AdamW(Schedule("lr", [0.01, 0.02]), weight_decay=Schedule("decay", [0.1])),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("options", [{"learn": ()}, {"mode": "forward"}, {"mode": "reverse"}])
def test_a_step_copies_no_numbers(options: dict[str, Any], update: Update) -> None:
    assert per_step(COPIES, normalised, update, **options) < 0.1


def test_training_reads_nothing() -> None:
    assert per_step(READS, normalised, UPDATES["sgd"], learn=()) == 0


def test_forward_mode_reads_whether_tangents_grow() -> None:
    options = {"mode": "forward", "estimate": "exact"}
    assert per_step(READS, normalised, UPDATES["sgd"], **options) == 0
    assert per_step(READS, normalised, UPDATES["sgd"], **options | {"estimate": "damped"}) == 1


def test_reverse_mode_reads_the_measurements_of_a_step_back() -> None:
    """On the CPU, each buffer is compared with its copy; on a device, all at once."""
    assert per_step(READS, mlp, UPDATES["sgd"], mode="reverse") <= 1
    buffers = 3  # two statistics and a counter: compared after, and before they are put back
    found = per_step(READS, normalised, UPDATES["sgd"], mode="reverse")
    assert found <= 1 + 4 * buffers
