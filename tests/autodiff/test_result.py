"""What a hypergradient prints."""

from collections.abc import Mapping

import pytest
import torch

from autodiff.problems import batch, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_a_long_run_prints_one_line_without_its_losses(mode: str) -> None:
    update = SGD(Schedule("lr", [0.1]))
    result = hypergradient(mlp(), loss_fn, update, [batch(0)], batch(1), steps=200, mode=mode)
    text = repr(result)
    assert len(text) < 300 and "\n" not in text
    for name in ("gradient", "loss", "products", "mode", "cost"):
        assert f"{name}={getattr(result, name)!r}" in text
    hidden = {name for name in vars(result) if f"{name}=" not in text}
    values = {name: getattr(result, name) for name in hidden}
    assert len(values["train_losses"]) == 200
    shown = [value for name, value in vars(result).items() if name not in hidden]
    assert not any(isinstance(value, list | tuple | torch.Tensor) for value in shown)
    assert [value for value in shown if isinstance(value, Mapping)] == [result.gradient]
