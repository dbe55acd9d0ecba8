from collections.abc import Iterator
from typing import Any

import pytest
import torch

from optuna_hypergrad.autodiff import ForwardMode, hypergradient


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """The oracles judge in double precision."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracles judge exact hypergradients, unless a test names another estimate."""
    defaults: list[Any] = [hypergradient.__kwdefaults__, ForwardMode.__init__.__kwdefaults__]
    for one in defaults:
        monkeypatch.setitem(one, "estimate", "exact")
