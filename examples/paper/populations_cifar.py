"""The job cifar10: an AlexNet with 15 hyperparameters of regularisation and augmentation.

Hyperparameters, ranges and their optimisation are those of self-tuning networks (MacKay et al.
2019): eight dropout rates and the strengths of seven augmentations, different for each image. The
profile ``cpu`` trains a narrow network with images of 16 × 16 pixels, a part of the data.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from populations_jobs import Batch, Data, Job
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from trust_jobs import cifar_bytes

from optuna_hypergrad.hypernet import Conditioning, HyperDropout

POOLED = (0, 1, 4)  # convolutions that are followed by max pooling
MOST_HOLES = 4


def ranges(size: int) -> dict[str, tuple[float, float]]:
    """Bounds of the hyperparameters for images of a size; the cutout's scale with it."""
    rates = ("input", *(f"conv_{i}" for i in range(5)), "fc_0", "fc_1")
    strengths = {"contrast": 1.0, "saturation": 1.0, "brightness": 1.0, "input_scale": 0.3}
    # Lengths and holes are rounded down where they are used, since their transforms are smooth.
    cutout = {"cutout_length": 24.0 * size / 32, "cutout_holes": float(MOST_HOLES)}
    highest = {**{f"dropout_{name}": 0.9 for name in rates}, "hue": 0.5, **strengths, **cutout}
    return {name: (0.0, high) for name, high in highest.items()}


def load(root: Path, size: int, train: int, held_out: int, test: int) -> Data:
    """Training images, then twice ``held_out`` ones of the same part, and test images."""
    parts = []
    for part, n in (("train", train + 2 * held_out), ("test", test)):
        images, labels = cifar_bytes(root, n, part)
        x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
        parts.append((F.avg_pool2d(x, 32 // size), torch.tensor(labels)))
    (x, y), tested = parts
    sizes = (train, held_out, held_out)
    return Data(*zip(x.split(sizes), y.split(sizes), strict=True), tested)


class AlexNet(nn.Module):
    """Five convolutions and two hidden layers, each with dropout, for images in [0, 1]."""

    def __init__(self, size: int, channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [HyperDropout("dropout_input")]
        for i, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i in POOLED else []
            layers += [HyperDropout(f"dropout_conv_{i}")]
        layers += [nn.Flatten()]
        widths = (channels[-1] * (size // 8) ** 2, hidden, hidden)
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Linear(before, after), nn.ReLU(), HyperDropout(f"dropout_fc_{i}")]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 10))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):  # torch's default is too small for depth 8
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            strengths = Conditioning.of(self)
            images = _normalised(_coloured(images, strengths))
            images = _cut_out(_scaled(images, strengths), strengths)
        else:
            images = _normalised(images)
        return self.layers(images)


def _normalised(images: Tensor) -> Tensor:
    return (images - 0.47) / 0.25  # about the mean and the standard deviation of all channels


def _around(centre: float, strength: Tensor, n: int) -> Tensor:
    """Random factors for n images, uniform in centre ± strength, and at least 0."""
    signs = 2 * torch.rand(n, device=strength.device) - 1
    return (centre + strength * signs).clamp_min(0)[:, None, None, None]


def _gray(images: Tensor) -> Tensor:
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images * weights).sum(1, keepdim=True)


def _coloured(images: Tensor, strengths: Conditioning) -> Tensor:
    """Images with random brightness, contrast, saturation and hue."""
    n = len(images)
    images = images * _around(1, strengths["brightness"], n)
    mean = _gray(images).mean((2, 3), keepdim=True)
    images = mean + (images - mean) * _around(1, strengths["contrast"], n)
    gray = _gray(images)
    images = gray + (images - gray) * _around(1, strengths["saturation"], n)
    turns = strengths["hue"] * (2 * torch.rand(n, device=images.device) - 1)
    return torch.einsum("nij,njhw->nihw", _rotations(2 * math.pi * turns), images).clamp(0, 1)


def _rotations(angles: Tensor) -> Tensor:
    """Rotations of colours about the gray axis, shape (n, 3, 3), by Rodrigues' formula."""
    cross = angles.new_tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    identity = torch.eye(3, device=angles.device)
    return cosine * identity + sine * cross + (1 - cosine) / 3


def _scaled(images: Tensor, strengths: Conditioning) -> Tensor:
    """Normalised images, each times a random factor."""
    return images * _around(1, strengths["input_scale"], len(images))


def _cut_out(images: Tensor, strengths: Conditioning) -> Tensor:
    """Images with holes: squares at random places, partly outside, that are 0."""
    n, size, device = len(images), images.shape[-1], images.device
    length, holes = (strengths[f"cutout_{name}"].floor().expand(n) for name in ("length", "holes"))
    pixels = torch.arange(size, device=device) + 0.5
    centres = size * torch.rand(n, MOST_HOLES, 2, 1, device=device)
    inside = (pixels - centres).abs() < length[:, None, None, None] / 2
    hole = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    is_used = torch.arange(MOST_HOLES, device=device) < holes[:, None]
    return images * ~(hole & is_used[:, :, None, None]).any(1, keepdim=True)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the paper."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam, which learns within the few steps that a CPU has time for."""
    return torch.optim.Adam(model.parameters(), lr=2e-3)


CPU = Job(
    ranges(16),
    partial(load, size=16, train=2000, held_out=1000, test=2000),
    partial(AlexNet, 16, (16, 32, 48, 32, 32), 128),
    loss,
    adam,
    steps=100,
    batch_size=32,
    lr=0.02,
    without_validation=1.25,
    plain=2.6,
    population=8,
    generations=10,
)
FULL = Job(
    ranges(32),
    partial(load, size=32, train=40_000, held_out=5000, test=10_000),
    partial(AlexNet, 32, (64, 192, 384, 256, 256), 1024),
    loss,
    sgd,
    steps=1250,  # four epochs
    batch_size=128,
    lr=3e-3,
    without_validation=1.25,
    plain=2.6,
    population=20,
    generations=50,
)
