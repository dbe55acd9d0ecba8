"""The hyperparameters that layers are conditioned on."""

import pytest
import torch
from torch import nn

from hypernet.problems import TRANSFORMS, VALUES, conditioning, mlp
from optuna_hypergrad.hypernet import Conditioning, convert


def test_values_are_natural_and_can_be_set() -> None:
    holder = conditioning()
    assert holder.values == pytest.approx(VALUES) and type(holder.values["holes"]) is int
    holder.set_values({"rate": 0.6, "holes": 4})
    assert holder.values == pytest.approx({"rate": 0.6, "noise": 0.2, "holes": 4})
    holder.set_values(holder.values)
    assert holder.values == pytest.approx({"rate": 0.6, "noise": 0.2, "holes": 4})


def test_a_point_holds_inside_its_block_even_if_the_block_fails() -> None:
    holder, points = conditioning(), torch.randn(4, 3)
    with pytest.raises(RuntimeError), holder.at(points):
        with holder.at(points[0]):
            assert holder["rate"].shape == ()
        torch.testing.assert_close(holder["rate"], TRANSFORMS["rate"].constrain(points[:, 0]))
        raise RuntimeError
    assert float(holder["rate"]) == pytest.approx(0.3)


def test_layers_read_the_offset_from_the_centre_with_a_gradient() -> None:
    for centred, expected in [(True, torch.zeros(3)), (False, conditioning().centre)]:
        holder = conditioning(centred)
        point = holder.centre.clone().requires_grad_()
        with holder.at(point):
            torch.testing.assert_close(holder.offset.detach(), expected)
            holder.offset.sum().backward()
        torch.testing.assert_close(point.grad, torch.ones(3))


def test_strengths_are_detached() -> None:
    holder = conditioning()
    with holder.at(holder.centre.clone().requires_grad_()):
        assert not holder["rate"].requires_grad


def test_bad_input_names_the_argument() -> None:
    holder = conditioning()
    with pytest.raises(ValueError, match=r"values must name .* got \['rate'\] for \['rate', 'noi"):
        Conditioning(TRANSFORMS, {"rate": 0.1})
    with pytest.raises(ValueError, match=r"rate: value must lie in the range .* got 0.95"):
        holder.set_values({"noise": 0.5, "rate": 0.95})
    assert holder.values == pytest.approx(VALUES)
    with pytest.raises(ValueError, match=r"'p' is not a hyperparameter; known are \['rate', "):
        holder.set_values({"p": 0.1})
    with pytest.raises(ValueError, match=r"point must have shape .* \(batch, 3\), got \(4,\)"):
        holder.at(torch.zeros(4)).__enter__()


def test_a_model_has_one_conditioning() -> None:
    with pytest.raises(ValueError, match="model: expected one conditioning in it, found 0"):
        Conditioning.of(mlp())
    pair = nn.ModuleList(convert(mlp(), conditioning()) for _ in range(2))
    with pytest.raises(ValueError, match="found 2"):
        Conditioning.of(pair)
