"""Training jobs of the benchmark of trust: real data, learning rates from tame to chaotic.

Each job trains a small network for some hundred steps with a learning rate in windows, the
momentum or betas of its optimizer, weight decay, and, one of them, dropout and label smoothing.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import mnist
import networks
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Hypergradient, hypergradient

Values = dict[str, float]  # by trial parameter


@dataclass(frozen=True)
class Scale:
    """A hyperparameter at the start, and the scale on which it is moved.

    Args:
        start: Value at level 1.
        kind: ``"log"``; ``"complement"``, the logarithm of 1 − value; ``"linear"``.
        width: Length of a step of the central differences on this scale.
    """

    start: float
    kind: Literal["log", "complement", "linear"]
    width: float

    def moved(self, value: float, by: float) -> float:
        """The value ``by`` steps along the scale."""
        if self.kind == "log":
            return value * math.exp(by * self.width)
        if self.kind == "complement":
            return 1 - (1 - value) * math.exp(-by * self.width)
        return value + by * self.width

    def slope(self, value: float, derivative: float) -> float:
        """The derivative by the value as a derivative by steps along the scale."""
        inner = {"log": value, "complement": 1 - value, "linear": 1.0}[self.kind]
        return derivative * inner * self.width


MOMENTUM = Scale(0.9, "complement", 0.4)
STEP = 0.4  # ±40 % of a learning rate, in its logarithm


@dataclass(frozen=True)
class Data:
    """Training batches by seed and step, and one validation batch."""

    batches: Callable[[int, int], Callable[[int], Any]]  # seed, steps
    validation: Any
    test: Any


@dataclass(frozen=True)
class Job:
    """A network, its data and its hyperparameters."""

    name: str
    steps: int
    lr: tuple[float, ...]  # by window, at level 1
    levels: tuple[float, ...]  # factors of all learning rates, from tame to just below divergence
    others: Mapping[str, Scale]
    model: Callable[[int], nn.Module]
    loss: Callable[..., Tensor]
    data: Callable[[Path], Data]
    update: Callable[[Mapping[str, Any]], Any]
    of_loss: tuple[str, ...] = ()
    scales: dict[str, Scale] = field(init=False)

    def __post_init__(self) -> None:
        rates = {f"lr_{i}": Scale(value, "log", STEP) for i, value in enumerate(self.lr)}
        object.__setattr__(self, "scales", {**rates, **self.others})

    def values(self, level: float) -> Values:
        """The hyperparameters at a level."""
        return {
            name: scale.start * (level if name.startswith("lr_") else 1.0)
            for name, scale in self.scales.items()
        }

    def moved(self, values: Values, direction: Mapping[str, float]) -> Values:
        """The values, each moved along its scale by a number of steps."""
        return {k: self.scales[k].moved(v, direction.get(k, 0.0)) for k, v in values.items()}

    def slopes(self, values: Values, gradient: Mapping[str, float]) -> Values:
        """Derivatives by the values as derivatives by steps along the scales."""
        return {k: self.scales[k].slope(values[k], d) for k, d in gradient.items()}

    def run(
        self, root: Path, values: Values, seed: int, on: str = "validation", **options: Any
    ) -> Hypergradient:
        """Train once; the seed draws initial weights, batches and dropout masks."""
        data, model = loaded(self.data, root), self.model(seed)
        lr = Schedule("lr", [values[f"lr_{i}"] for i in range(len(self.lr))])
        hparams: dict[str, Any] = {"lr": lr}
        hparams |= {name: Schedule(name, [values[name]]) for name in self.others}
        own = {name: hparams.pop(name) for name in self.of_loss}
        torch.manual_seed(seed)
        return hypergradient(
            model,
            self.loss,
            self.update(hparams),
            data.batches(seed, self.steps),
            getattr(data, on),
            steps=self.steps,
            hypers=own or None,
            validation_loss_fn=partial(_plain_loss, self.loss) if own else None,
            **options,
        )


@cache
def loaded(load: Callable[[Path], Data], root: Path) -> Data:
    """Data, read once."""
    return load(root)


def _plain_loss(
    loss: Callable[..., Tensor], model: nn.Module, batch: Any, hparams: Mapping[str, Any]
) -> Tensor:
    """The loss without dropout and label smoothing."""
    return loss(model, batch, dict.fromkeys(hparams, 0.0))


def _images(train: mnist.Batch, validation: mnist.Batch, test: mnist.Batch, size: int) -> Data:
    return Data(
        lambda seed, steps: mnist.random_batches(train, seed, steps, size), validation, test
    )


def _classified(model: nn.Module, batch: mnist.Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


# LeNet on MNIST.


def _mnist(root: Path) -> Data:
    train, held_out = mnist.load(root)
    x, y = (torch.cat(parts) for parts in zip(*held_out, strict=True))
    return _images(train, (x[:2000], y[:2000]), (x[2000:], y[2000:]), 64)


# WRN-16-1 on CIFAR-10.


def cifar_images(
    root: Path, n: int = 6500, part: Literal["train", "test"] = "train"
) -> mnist.Batch:
    """The first images of a part, in [−1, 1], and their labels."""
    images, labels = cifar_bytes(root, n, part)
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(labels)


def cifar_bytes(
    root: Path, n: int, part: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first images of a part, shape (n, 32, 32, 3), and their labels."""
    file = root / "cifar10_jpeg.npz"
    if file.exists():
        from PIL import Image

        with np.load(file) as arrays:
            ends, joined = arrays[f"{part}_ends"], arrays[f"{part}_jpeg"]
            labels = arrays[f"{part}_labels"][:n]
        parts = np.split(joined[: ends[n - 1]], ends[: n - 1])
        images = np.stack([np.asarray(Image.open(io.BytesIO(p.tobytes()))) for p in parts])
    else:
        from torchvision.datasets import CIFAR10

        downloaded = CIFAR10(str(root), train=part == "train", download=True)
        images, labels = downloaded.data[:n], np.array(downloaded.targets[:n])
    return images, labels.astype(np.int64)


def _cifar(root: Path) -> Data:
    """5,000 training images, 500 for validation and 1,000 for tests."""
    x, y = cifar_images(root)
    return _images((x[:5000], y[:5000]), (x[5000:5500], y[5000:5500]), (x[5500:], y[5500:]), 32)


# An MLP on scikit-learn's digits.


def _digits(root: Path) -> Data:
    del root
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order] / 16.0, dtype=torch.float32), torch.tensor(y[order])
    return _images((x[:900], y[:900]), (x[900:1350], y[900:1350]), (x[1350:], y[1350:]), 32)


def _mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    )


# A transformer on the characters of Shakespeare.


class Attention(nn.Module):
    """Causal attention with ``heads`` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.inward(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.outward(mixed.transpose(1, 2).reshape(n, length, width))


class Layer(nn.Module):
    """A layer of a transformer, with layer norm before each part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Characters(nn.Module):
    """A language model, by default two layers of width 64 with four heads."""

    def __init__(self, vocabulary: int, context: int, width: int = 64, n_layers: int = 2) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(n_layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text) + self.places.weight[: text.shape[1]]
        return self.head(self.norm(self.layers(x)))


CONTEXT = 48


def _windows_of(text: Tensor, starts: Tensor, length: int) -> mnist.Batch:
    """Pieces of a text, and the same one place later."""
    index = starts[:, None] + torch.arange(length)
    return text[index], text[index + 1]


def _text_data(train: Tensor, validation: Tensor, test: Tensor, length: int, size: int) -> Data:
    def batches(seed: int, steps: int) -> Callable[[int], mnist.Batch]:
        draws = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(train) - length - 1, (steps, size), generator=draws)
        return lambda step: _windows_of(train, starts[step], length)

    def held_out(text: Tensor) -> mnist.Batch:
        starts = torch.arange(0, len(text) - length - 1, (len(text) - length - 1) // 200)
        return _windows_of(text, starts[:200], length)

    return Data(batches, held_out(validation), held_out(test))


def _shakespeare(root: Path) -> Data:
    text = (root / "tinyshakespeare.txt").read_text()
    known = {character: i for i, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([known[character] for character in text])
    a, b = int(0.9 * len(codes)), int(0.95 * len(codes))
    return _text_data(codes[:a], codes[a:b], codes[b:], CONTEXT, 24)


def _transformer(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Characters(65, CONTEXT)


def _predicted(model: nn.Module, batch: mnist.Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


# An LSTM on the words of Penn Treebank, with dropout and label smoothing.

VOCABULARY = 1000


class Words(nn.Module):
    """A language model: an LSTM of width 64, with dropout before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 64)
        self.reader, self.head = nn.LSTM(64, 64, batch_first=True), nn.Linear(64, VOCABULARY)

    def forward(self, text: Tensor, dropout: Tensor | float) -> Tensor:
        x = relaxed_dropout(self.embedding(text), dropout, self.training)
        return self.head(relaxed_dropout(self.reader(x)[0], dropout, self.training))


def relaxed_dropout(x: Tensor, rate: Tensor | float, training: bool) -> Tensor:
    """Gaussian dropout with the variance of dropout, which has a derivative by its rate."""
    if not training:
        return x
    rate = torch.as_tensor(rate)
    return x * (1 + (rate / (1 - rate)).sqrt() * torch.randn_like(x))


def _read_words(model: nn.Module, batch: mnist.Batch, hparams: Mapping[str, Any]) -> Tensor:
    logits = model(batch[0], hparams["dropout"]).flatten(0, 1)
    smoothing = hparams["label_smoothing"]
    log_p = logits.log_softmax(-1)
    hit = -log_p.gather(1, batch[1].flatten()[:, None]).mean()
    return (1 - smoothing) * hit - smoothing * log_p.mean()


def _ptb(root: Path) -> Data:
    """Trains on PTB's validation part; halves of its test part serve as the other two."""
    parts = [(root / f"ptb.{part}.txt").read_text().split() for part in ("valid", "test")]
    frequent = [word for word, _ in Counter(parts[0]).most_common(VOCABULARY - 1)]
    known = {word: i + 1 for i, word in enumerate(frequent)}
    train, rest = (torch.tensor([known.get(word, 0) for word in words]) for words in parts)
    half = len(rest) // 2
    return _text_data(train, rest[:half], rest[half:], 20, 20)


def _lstm(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Words()


def _sgd(hparams: Mapping[str, Any]) -> SGD:
    return SGD(**hparams)


def _adamw(hparams: Mapping[str, Any], eps: float = 1e-6) -> AdamW:
    beta1, beta2 = hparams["beta1"], hparams["beta2"]
    return AdamW(hparams["lr"], (beta1, beta2), eps, hparams["weight_decay"])


SGD_HPARAMS = {"momentum": MOMENTUM, "weight_decay": Scale(1e-3, "log", 0.7)}
ADAM_HPARAMS = {
    "beta1": MOMENTUM,
    "beta2": Scale(0.99, "complement", 0.5),
    "weight_decay": Scale(0.1, "log", 0.7),
}

JOBS = {
    job.name: job
    for job in (
        Job(
            "transformer",
            300,
            (1e-2, 1e-2, 1e-2, 8e-3, 6e-3, 4e-3),
            (0.25, 1.0, 2.0, 4.0),
            ADAM_HPARAMS,
            _transformer,
            _predicted,
            _shakespeare,
            _adamw,
        ),
        Job(
            "wrn",
            32,
            (0.1, 0.1, 0.05, 0.02),
            (0.03, 0.1, 0.3, 1.0),
            SGD_HPARAMS,
            networks.wide_resnet,
            _classified,
            _cifar,
            _sgd,
        ),
        Job(
            "lenet",
            100,
            (0.03, 0.03, 0.02, 0.01),
            (0.1, 0.3, 1.0, 2.0),
            SGD_HPARAMS,
            mnist.lenet,
            _classified,
            _mnist,
            _sgd,
        ),
        Job(
            "lstm",
            120,
            (1e-2, 1e-2, 6e-3, 3e-3),
            (0.1, 1.0, 3.0, 10.0),
            {
                **ADAM_HPARAMS,
                "dropout": Scale(0.2, "linear", 0.1),
                "label_smoothing": Scale(0.1, "linear", 0.08),
            },
            _lstm,
            _read_words,
            _ptb,
            _adamw,
            ("dropout", "label_smoothing"),
        ),
        Job(
            "mlp",
            200,
            (3e-3, 3e-3, 2e-3, 1e-3),
            (0.1, 1.0, 6.0, 20.0),
            ADAM_HPARAMS,
            _mlp,
            _classified,
            _digits,
            _adamw,
        ),
    )
}
