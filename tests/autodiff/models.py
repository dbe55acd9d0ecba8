"""Models as people use them, each with a loss and batches small enough for an unrolled run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.models import alexnet, resnet18

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
WORDS = 7


@dataclass(frozen=True)
class Problem:
    """A model to train, its loss, and what its batches look like."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: Loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    lr: float = 0.05


def images(side: int, count: int = 3) -> Callable[[], Batch]:
    """Images of three channels, and labels of ten classes."""
    return lambda: (torch.randn(count, 3, side, side), torch.randint(10, (count,)))


def text(length: int = 5, count: int = 3) -> Callable[[], Batch]:
    """Words and the words that follow them, shape (batch, length) each."""

    def batch() -> Batch:
        words = torch.randint(WORDS, (count, length + 1))
        return words[:, :-1], words[:, 1:]

    return batch


def next_word(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def resnet(whole: bool = False) -> nn.Module:
    """torchvision's; unless ``whole``, its two large stages do not learn (158 k of 11 M do)."""
    model = resnet18(num_classes=10)
    for stage in () if whole else (model.layer2, model.layer3, model.layer4):
        stage.requires_grad_(False)
    return model


def alex(whole: bool = False) -> nn.Module:
    """torchvision's; unless ``whole``, its large layers do not learn (0.4 M of 57 M do)."""
    model = alexnet(num_classes=10)
    frozen = [model.features[6], model.features[8], model.features[10]]
    for layer in () if whole else (*frozen, model.classifier[1], model.classifier[4]):
        layer.requires_grad_(False)
    return model


class Recurrent(nn.Module):
    """A language model: two recurrent layers with dropout between them, and tied embeddings."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(WORDS, 6), nn.Linear(6, WORDS)
        self.layers = kind(6, 6, num_layers=2, dropout=0.3, batch_first=True)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.layers(self.embedding(words))[0])


class Transformer(nn.Module):
    """A causal language model from torch's encoder, whose attention is left at its default."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, words: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        return self.decoder(self.encoder(self.embedding(words), mask, is_causal=True))


class Attention(nn.Module):
    """Attention by a call of a function, which no module of torch's shows."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.project, self.dropout = nn.Linear(8, 24), dropout

    def forward(self, words: Tensor) -> Tensor:
        q, k, v = self.project(self.embedding(words)).unsqueeze(1).chunk(3, dim=-1)
        p = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.decoder(found.squeeze(1))


def weight_normed() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 4, 3, stride=2)),
        nn.Tanh(),
        nn.Flatten(),
        weight_norm(nn.Linear(4 * 9, 10)),
    )


class Checkpointed(nn.Module):
    """Blocks whose activations are worked out ``again`` in the backward pass."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head, self.again = nn.Linear(36, 10), True

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return self.head(x.flatten(1))


def checkpointed(norm: bool = False) -> nn.Module:
    """With dropout, and with batch norm, which cannot be replaced within (see switching.py)."""
    between = nn.BatchNorm2d(4) if norm else nn.Identity()
    return Checkpointed(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), between, nn.Tanh(), nn.Dropout(0.2)),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Softplus()),
    )


PROBLEMS = {
    "ResNet-18": Problem(resnet, images(32, 4), lr=0.01),
    "AlexNet": Problem(alex, images(64, 2), lr=0.01),
    "LSTM": Problem(lambda: Recurrent(nn.LSTM), text(), next_word, lr=0.5),
    "GRU": Problem(lambda: Recurrent(nn.GRU), text(), next_word, lr=0.5),
    "transformer": Problem(Transformer, text(), next_word),
    "attention": Problem(Attention, text(), next_word, lr=0.5),
    "weight norm": Problem(weight_normed, images(8)),
    "activation checkpointing": Problem(checkpointed, images(8)),
    "activation checkpointing, batch norm": Problem(lambda: checkpointed(True), images(8)),
}
