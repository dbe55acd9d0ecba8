"""The job ptb: a word-level LSTM with seven hyperparameters of regularisation.

Penn Treebank's validation part is the training data, since the training part is not available;
halves of its test part serve as held-out and as test data. So perplexities are not comparable with
published ones. Words that are not among the most frequent ones are unknown ones.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from populations_jobs import Batch, Data, Job
from torch import Tensor, nn
from torch.func import functional_call

from optuna_hypergrad.hypernet import Conditioning, HyperDropout

RATES = ("input", "hidden", "output", "embedding")
RANGES = {
    **{f"dropout_{name}": (0.0, 0.9) for name in RATES},
    "weight_drop": (0.0, 0.9),
    "activation": (0.0, 4.0),  # α
    "temporal": (0.0, 4.0),  # β
}


def load(root: Path, vocabulary: int, length: int, held_out: int) -> Data:
    """Pieces of the texts, and the same one word later; those of the training text overlap.

    ``held_out`` is the largest number of pieces of each other part, twice as many of the test part.
    """
    words = [(root / f"ptb.{part}.txt").read_text().split() for part in ("valid", "test")]
    frequent = [word for word, _ in Counter(words[0]).most_common(vocabulary - 1)]
    known = {word: i + 1 for i, word in enumerate(frequent)}
    train, rest = (torch.tensor([known.get(word, 0) for word in text]) for text in words)
    quarter, half = len(rest) // 4, len(rest) // 2
    parts = {rest[:quarter]: held_out, rest[quarter:half]: held_out, rest[half:]: 2 * held_out}
    others = (
        _pieces(text, length, max(length, len(text) // (most + 1))) for text, most in parts.items()
    )
    return Data(_pieces(train, length, length // 4), *others)


def _pieces(text: Tensor, length: int, stride: int) -> Batch:
    """Pieces of a length, whose beginnings are ``stride`` words apart."""
    pieces = text.unfold(0, length + 1, stride)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


class Layer(nn.Module):
    """An LSTM over sequences, as a cell, since that responds to hyperparameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, width)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1)


class Words(nn.Module):
    """Two layers of LSTM between an embedding and a decoder with the same weights.

    The decoder does not respond to hyperparameters (as in the paper). Dropout masks stay the same
    over time.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding, self.bias = (
            nn.Embedding(vocabulary, width),
            nn.Parameter(torch.zeros(vocabulary)),
        )
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        places = ("input", "hidden", "output")
        self.dropouts = nn.ModuleList(
            [HyperDropout(f"dropout_{place}", channelwise=True) for place in places]
        )

    def forward(self, text: Tensor) -> Tensor:
        return self.decode(self.read(text)[1])

    def decode(self, x: Tensor) -> Tensor:
        """Logits of the next words."""
        return F.linear(x, self.embedding.weight, self.bias)

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of the last layer before and after dropout, shape (batch, time, width)."""
        x = self.embedding(text)
        if self.training:
            x = x * _kept_words(
                text, Conditioning.of(self)["dropout_embedding"], len(self.embedding.weight)
            )
        for dropout, layer in zip(self.dropouts, self.layers, strict=False):
            x = self._layer(layer, _over_time(dropout, x))
        return x, _over_time(self.dropouts[-1], x)

    def _layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer, in training without a part of its recurrent weights."""
        if not self.training:
            return layer(x)
        rate = Conditioning.of(self)["weight_drop"].flatten()[0]  # of a batch, see ``loss``
        weights = dict(layer.named_parameters())
        recurrent = [n for n in weights if n.endswith(("cell.weight_hh", "response_hh.weight"))]
        mask = (torch.rand_like(weights[recurrent[0]]) >= rate) / (1 - rate)
        dropped = {name: weights[name] * mask for name in recurrent}
        return functional_call(layer, dropped, (x,))


def _over_time(dropout: nn.Module, x: Tensor) -> Tensor:
    """Dropout whose masks do not depend on the time."""
    return dropout(x.transpose(1, 2)).transpose(1, 2)


def _kept_words(text: Tensor, rate: Tensor, vocabulary: int) -> Tensor:
    """0 for the words that are dropped from an example, shape (batch, time, 1)."""
    rates = rate.expand(len(text))[:, None]
    kept = torch.rand(len(text), vocabulary, device=text.device) >= rates
    return (kept / (1 - rates)).gather(1, text)[..., None]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy; in training with the activation regularisers of the AWD-LSTM."""
    text, target = batch
    if not model.training:
        return F.cross_entropy(model(text).flatten(0, 1), target.flatten())
    conditioning = Conditioning.of(model)
    point = conditioning.point.clone()
    if point.dim() == 2:  # all examples share the recurrent weights, so also their dropout rate
        index = list(conditioning.transforms).index("weight_drop")
        point[:, index] = point[0, index]
    with conditioning.at(point):
        raw, dropped = model.read(text)
        entropy = F.cross_entropy(model.decode(dropped).flatten(0, 1), target.flatten())
        activation = dropped.square().mean((1, 2)) * conditioning["activation"]
        temporal = raw.diff(dim=1).square().mean((1, 2)) * conditioning["temporal"]
        return entropy + (activation + temporal).mean()


def adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam, since SGD with a large rate, as for the whole text, needs longer training."""
    return torch.optim.Adam(model.parameters(), lr=lr)


CPU = Job(
    RANGES,
    partial(load, vocabulary=2000, length=12, held_out=300),
    partial(Words, 2000, 64),
    loss,
    partial(adam, lr=0.02),
    steps=45,
    batch_size=32,
    lr=0.03,
    without_validation=1.5,
    plain=2.7,
    population=8,
    generations=10,
)
FULL = Job(
    RANGES,
    partial(load, vocabulary=6000, length=70, held_out=1000),
    partial(Words, 6000, 650),
    loss,
    partial(adam, lr=1e-3),
    steps=200,
    batch_size=40,
    lr=0.01,
    without_validation=1.5,
    plain=2.7,
    population=20,
    generations=50,
)
