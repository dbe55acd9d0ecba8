"""Small models that the tests of this folder share, and hyperparameters for them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad.hypernet import (
    Bounded,
    Conditioning,
    Discrete,
    HyperDropout,
    HyperNoise,
    HyperTraining,
    Positive,
    convert,
)

TRANSFORMS = {"rate": Bounded(0.0, 0.9), "noise": Positive(), "holes": Discrete(0, 4)}
VALUES = {"rate": 0.3, "noise": 0.2, "holes": 1}


def conditioning(centred: bool = True) -> Conditioning:
    return Conditioning(TRANSFORMS, VALUES, centred=centred)


class Cell(nn.Module):
    """Two steps of an LSTM cell over features (batch, 2, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for features in x.unbind(1):
            state = self.cell(features, state)
        return self.head(state[0])


class Tied(nn.Module):
    """A language model's first and last layer, with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.decode = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.embed(x)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


def regularised() -> nn.Module:
    hidden = (nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), HyperDropout("rate"))
    return nn.Sequential(HyperNoise("noise"), *hidden, nn.Linear(6, 3))


def convolutional() -> nn.Module:
    convolutions = (
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False),
    )
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3))


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 3))


MODELS = {
    "mlp": (mlp, lambda size: torch.randn(size, 5)),
    "sequence": (mlp, lambda size: torch.randn(size, 2, 5)),
    "convolutional": (convolutional, lambda size: torch.randn(size, 2, 6, 6)),
    "embedding": (embedding, lambda size: torch.randint(7, (size, 3))),
    "cell": (Cell, lambda size: torch.randn(size, 2, 5)),
    "tied": (Tied, lambda size: torch.randint(7, (size, 3))),
}


def with_response(student: nn.Module) -> nn.Module:
    """Maps as after some training; new ones are zero."""
    for name, parameter in student.named_parameters():
        if name.endswith(".map"):
            nn.init.normal_(parameter)
    return student


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 5), torch.randint(3, (size,))


def training(centred: bool = True, **options) -> HyperTraining:
    student = with_response(convert(regularised(), conditioning(centred)))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    return HyperTraining(student, loss_fn, optimizer, **options)
