"""Strengths of regularisers, for each example its own."""

import pytest
import torch
from torch import nn

from optuna_hypergrad.hypernet import Bounded, Conditioning, HyperDropout, HyperNoise, convert


def regulariser(layer: nn.Module) -> tuple[nn.Module, Conditioning]:
    holder = Conditioning({"strength": Bounded(0.0, 1.0)}, {"strength": 0.4})
    return convert(nn.Sequential(layer, nn.Linear(3, 1)), holder)[0], holder


def point(*values: float) -> torch.Tensor:
    return torch.tensor([[Bounded(0.0, 1.0).unconstrain(value)] for value in values])


@pytest.mark.parametrize("channelwise", [True, False])
def test_dropout_rates_are_those_of_the_examples(channelwise: bool) -> None:
    dropout, holder = regulariser(HyperDropout("strength", channelwise=channelwise))
    rates, x = (0.1, 0.5, 0.8), torch.ones(3, 10_000, 2, 2)
    with holder.at(point(*rates)):
        y = dropout(x)
    dropped = (y == 0).double()
    torch.testing.assert_close(dropped.mean((1, 2, 3)), torch.tensor(rates), atol=0.02, rtol=0)
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.ones(3), atol=0.05, rtol=0)
    whole = (dropped.mean((2, 3)) % 1 == 0).all()
    assert bool(whole) is channelwise
    for i, rate in enumerate(rates):
        kept = y[i][y[i] > 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))


def test_everything_is_dropped_at_a_rate_of_one() -> None:
    dropout, holder = regulariser(HyperDropout("strength"))
    with holder.at(torch.tensor([100.0])):
        torch.testing.assert_close(dropout(torch.ones(4, 3)), torch.zeros(4, 3))


def test_noise_has_the_deviation_of_the_examples() -> None:
    noise, holder = regulariser(HyperNoise("strength"))
    x = torch.randn(2, 20_000)
    with holder.at(point(0.2, 0.7)):
        torch.testing.assert_close(
            (noise(x) - x).std(1), torch.tensor([0.2, 0.7]), rtol=0.03, atol=0
        )
    assert float((noise(x) - x).std()) == pytest.approx(0.4, rel=0.03)  # at the centre


@pytest.mark.parametrize("layer", [HyperDropout("strength"), HyperNoise("strength")])
def test_regularisers_do_nothing_in_evaluation(layer: nn.Module) -> None:
    module, _ = regulariser(layer)
    x = torch.randn(4, 3)
    assert module.eval()(x) is x


def test_regularisers_of_a_plain_model_raise() -> None:
    with pytest.raises(ValueError, match=r"HyperDropout\('rate'\) .* convert the model first"):
        HyperDropout("rate")(torch.ones(4, 3))
