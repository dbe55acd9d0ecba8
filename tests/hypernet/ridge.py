"""Ridge regression, whose best response to the penalty is known in closed form."""

import torch
from torch import Tensor, nn

from optuna_hypergrad.hypernet import Conditioning, HyperTraining, Log, convert

EXAMPLES, FEATURES, REPEATS = 50, 5, 20


class Ridge:
    """Data of a linear regression; the penalty is a hyperparameter, for each example its own."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        truth = 0.3 * torch.randn(FEATURES, 1, generator=generator)
        self.train, self.validation = (
            (x, x @ truth + torch.randn(EXAMPLES, 1, generator=generator))
            for x in torch.randn(2, EXAMPLES, FEATURES, generator=generator)
        )
        # Each example meets many penalties a step: less noise in the learned response.
        self.batch = tuple(part.repeat(REPEATS, 1) for part in self.train)

    def weights(self, penalty: Tensor) -> Tensor:
        """The best response w*(λ), shape (FEATURES, 1)."""
        x, y = self.train
        return torch.linalg.solve(
            x.T @ x / EXAMPLES + penalty * torch.eye(FEATURES), x.T @ y / EXAMPLES
        )

    def retrained(self, penalty: float) -> tuple[float, float]:
        """Validation loss of the best response, and its derivative by λ."""
        penalty = torch.tensor(penalty, requires_grad=True)
        x, y = self.validation
        loss = (x @ self.weights(penalty) - y).square().mean()
        return loss.item(), float(torch.autograd.grad(loss, penalty)[0])

    def training(self, penalty: float, *, centred: bool = True, **options) -> HyperTraining:
        """Hyper-training of this problem, from random weights."""
        conditioning = Conditioning(
            {"penalty": Log(1e-2, 1e2)}, {"penalty": penalty}, centred=centred
        )
        student = convert(nn.Linear(FEATURES, 1, bias=False), conditioning)
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
        return HyperTraining(
            student, penalised, optimizer, validation_loss_fn=squared_error, **options
        )


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def penalised(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    # The identity as every example's input gives the weights that it meets, shape (batch, d, 1).
    weights = model(torch.eye(FEATURES).expand(len(batch[0]), -1, -1))
    penalty = Conditioning.of(model)["penalty"]
    return squared_error(model, batch) + (penalty * weights.square().sum((1, 2))).mean()
