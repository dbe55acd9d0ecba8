"""Small training problems that the tests of this folder share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batch(size: int, features: int = 5) -> Batch:
    return torch.randn(size, features), torch.randint(3, (size,))


def batches(count: int, size: int = 8) -> list[Batch]:
    return [batch(size) for _ in range(count)]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def dropout() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.4), mlp())


class Tied(nn.Module):
    """One matrix used twice, through two names, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 5, bias=False)
        self.decode = nn.Linear(5, 5, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(5, 3)
        self.register_buffer("scale", torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale * self.decode(torch.tanh(self.encode(x))))


class Frozen(nn.Module):
    """A first layer that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Partial(nn.Module):
    """A second head that a step uses only where the first label of the batch is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.extra = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.trunk(x))
        return self.head(hidden) + (self.extra(hidden) if x[0, 0] > 0 else 0.0)


MODELS = {
    "mlp": mlp,
    "batch norm": batch_norm,
    "convolutional": convolutional,
    "dropout": dropout,
    "tied": Tied,
    "frozen": Frozen,
}
