"""The networks of the engine's benchmark, with the shapes of their images."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import mnist
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions of 3 × 3, each after batch norm, with a skip connection."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(out)])
        self.first = nn.Conv2d(width, out, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.past = nn.Conv2d(width, out, 1, stride, bias=False) if width != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](x))
        past = x if self.past is None else self.past(y)
        return past + self.second(F.relu(self.norms[1](self.first(y))))


def wide_resnet(seed: int) -> nn.Sequential:
    """WRN-16-1, with 175,066 weights."""
    torch.manual_seed(seed)
    widths = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        *(Block(*sizes) for sizes in widths),
        *(nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(64, 10),
    )


def mlp(seed: int) -> nn.Sequential:
    """One hidden layer, as for scikit-learn's digits, with 4,810 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def wide_mlp(seed: int) -> nn.Sequential:
    """One hidden layer of 128 for MNIST, with 101,770 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class Rows(nn.Module):
    """A sequence model reads an image row by row, and the mean over rows is classified."""

    def __init__(self, reader: nn.Module, width: int) -> None:
        super().__init__()
        self.rows = nn.Linear(28, width)
        self.reader = reader
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        read = self.reader(self.rows(x.squeeze(1)))
        return self.head((read[0] if isinstance(read, tuple) else read).mean(1))


def lstm(seed: int) -> Rows:
    """One layer of 64, with 35,786 weights."""
    torch.manual_seed(seed)
    return Rows(nn.LSTM(64, 64, batch_first=True), 64)


def transformer(seed: int) -> Rows:
    """Two layers of width 64 with four heads and dropout, with 69,450 weights."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return Rows(nn.TransformerEncoder(layer, 2), 64)


@dataclass(frozen=True)
class Network:
    """How to make a network from a seed, and the shape of one image."""

    make: Callable[[int], nn.Module]
    shape: tuple[int, int, int]


NETWORKS = {
    "lenet": Network(mnist.lenet, (1, 28, 28)),
    "wrn-16-1": Network(wide_resnet, (3, 32, 32)),
    "mlp": Network(mlp, (1, 8, 8)),
    "wide-mlp": Network(wide_mlp, (1, 28, 28)),
    "lstm": Network(lstm, (1, 28, 28)),
    "transformer": Network(transformer, (1, 28, 28)),
}


def random_batches(
    network: Network, count: int, size: int, dtype: torch.dtype, device: str = "cpu"
) -> list[mnist.Batch]:
    """Noise with random labels; the cost of a step does not depend on them."""
    draws = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn((size, *network.shape), generator=draws, dtype=dtype).to(device),
            torch.randint(10, (size,), generator=draws).to(device),
        )
        for _ in range(count)
    ]


def device_name(device: str) -> str:
    """The name of a GPU, or the kind of the machine."""
    is_gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if is_gpu else platform.machine()
