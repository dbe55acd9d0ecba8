"""Independent judges: the training run unrolled under autograd, and central differences."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD

Loss = Callable[[nn.Module, object], Tensor]


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: object) -> Tensor:
        return self.loss(self.model, batch)


def unrolled_sgd(
    model: nn.Module,
    loss: Loss,
    hypers: Callable[[int], dict[str, Tensor]],
    batches: Sequence[object],
    validation: Callable[[Callable[[object], Tensor]], Tensor],
    nesterov: bool = False,
) -> Tensor:
    """The validation loss as a differentiable function of whatever ``hypers(step)`` came from.

    Written from torch's documentation of SGD, parameter by parameter; the last argument gets a
    function from a batch to its loss and combines them.
    """
    whole = _Loss(model, loss)
    weights = {k: p for k, p in whole.named_parameters() if p.requires_grad}
    weights = {k: p.detach().clone().requires_grad_() for k, p in weights.items()}
    velocity: dict[str, Tensor] = {}
    for step, batch in enumerate(batches):
        h = hypers(step)
        value = functional_call(whole, weights, (batch,))
        slopes = torch.autograd.grad(value, list(weights.values()), create_graph=True)
        for (k, w), g in zip(list(weights.items()), slopes, strict=True):
            q = g + h["weight_decay"] * w
            v = h["momentum"] * velocity[k] + (1 - h["dampening"]) * q if k in velocity else q
            velocity[k] = v
            weights[k] = w - h["lr"] * (q + h["momentum"] * v if nesterov else v)
    model.eval()
    return validation(lambda batch: functional_call(whole, weights, (batch,)))


def oracle_gradient(
    model: nn.Module,
    loss: Loss,
    update: SGD,
    batches: Sequence[object],
    validation: Callable[[Callable[[object], Tensor]], Tensor],
) -> tuple[float, dict[str, float]]:
    """Validation loss and its gradient by reverse mode through the unrolled run (float64)."""
    steps = len(batches)
    leaves: dict[str, Tensor] = {}
    for hyper in update.hypers.values():
        if isinstance(hyper, Schedule):
            leaves |= {
                k: torch.tensor(v, dtype=torch.float64, requires_grad=True)
                for k, v in hyper.params.items()
            }

    def value(hyper: float | Schedule, step: int) -> Tensor:
        if not isinstance(hyper, Schedule):
            return torch.tensor(hyper, dtype=torch.float64)
        return piecewise(hyper, [leaves[name] for name in hyper.names], step, steps)

    result = unrolled_sgd(
        model,
        loss,
        lambda step: {k: value(h, step) for k, h in update.hypers.items()},
        batches,
        validation,
        update.nesterov,
    )
    slopes = torch.autograd.grad(result, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves, slopes, strict=True)
    return float(result.detach()), {k: 0.0 if g is None else float(g) for k, g in pairs}


def piecewise(schedule: Schedule, values: list[Tensor], step: int, steps: int) -> Tensor:
    """The schedule's value, written anew in torch."""
    position = torch.tensor(schedule.windows * step / steps, dtype=torch.float64)
    i = schedule.windows * step // steps
    u = position - i
    if schedule.form == "constant":
        return values[i]
    c = u if schedule.form == "linear" else (1 - torch.cos(torch.pi * u)) / 2
    a, b = values[i], values[i + 1]
    if schedule.log:
        return torch.exp((1 - c) * torch.log(a) + c * torch.log(b))
    return (1 - c) * a + c * b


def finite_differences(
    run: Callable[[dict[str, float]], float], params: dict[str, float], epsilon: float = 1e-6
) -> dict[str, float]:
    """Central differences of ``run`` at ``params``."""

    def slope(name: str) -> float:
        up, down = (run({**params, name: params[name] + e}) for e in (epsilon, -epsilon))
        return (up - down) / (2 * epsilon)

    return {name: slope(name) for name in params}


def relative_error(found: dict[str, float], expected: dict[str, float]) -> float:
    """Largest difference, relative to the norm of what was expected."""
    assert found.keys() == expected.keys()
    difference = max(abs(found[k] - expected[k]) for k in expected)
    return difference / max(sum(v * v for v in expected.values()) ** 0.5, 1e-300)
