"""Independent judges: the training run unrolled under autograd, and central differences."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW

Loss = Callable[[nn.Module, object], Tensor]
Hypers = dict[str, Tensor]
# The new value and state of one parameter from the old ones (no state at first) and its gradient.
Rule = Callable[[Tensor, tuple[Tensor, ...], Tensor, Hypers], tuple[Tensor, tuple[Tensor, ...]]]


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: object) -> Tensor:
        return self.loss(self.model, batch)


def sgd(nesterov: bool) -> Rule:
    """Written from torch's documentation of SGD."""

    def rule(
        w: Tensor, state: tuple[Tensor, ...], g: Tensor, h: Hypers
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        q = g + h["weight_decay"] * w
        v = h["momentum"] * state[0] + (1 - h["dampening"]) * q if state else q
        return w - h["lr"] * (q + h["momentum"] * v if nesterov else v), (v,)

    return rule


def adamw(
    w: Tensor, state: tuple[Tensor, ...], g: Tensor, h: Hypers
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Written from torch's documentation of AdamW; the derivative of √v at v = 0 is taken as 0."""
    t, m, v = state or (w.new_tensor(0.0), torch.zeros_like(w), torch.zeros_like(w))
    t, lr = t + 1, h["lr"]
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    v = h["beta2"] * v + (1 - h["beta2"]) * g * g
    unbiased, spread = m / (1 - h["beta1"] ** t), v / (1 - h["beta2"] ** t)
    w = w - lr * h["weight_decay"] * w
    root = torch.where(v > 0, torch.where(v > 0, spread, 1.0).sqrt(), 0.0)
    return w - lr * unbiased / (root + h["eps"]), (t, m, v)


def unrolled(
    model: nn.Module,
    loss: Loss,
    rule: Rule,
    hypers: Callable[[int], Hypers],
    batches: Sequence[object],
    validation: Callable[[Callable[[object], Tensor]], Tensor],
) -> Tensor:
    """The validation loss as a differentiable function of whatever ``hypers(step)`` came from.

    Parameter by parameter; the last argument gets a function from a batch to its loss and combines
    them.
    """
    whole = _Loss(model, loss)
    weights = {k: p for k, p in whole.named_parameters() if p.requires_grad}
    weights = {k: p.detach().clone().requires_grad_() for k, p in weights.items()}
    states: dict[str, tuple[Tensor, ...]] = dict.fromkeys(weights, ())
    for step, batch in enumerate(batches):
        h = hypers(step)
        value = functional_call(whole, weights, (batch,))
        slopes = torch.autograd.grad(value, list(weights.values()), create_graph=True)
        for (k, w), g in zip(list(weights.items()), slopes, strict=True):
            weights[k], states[k] = rule(w, states[k], g, h)
    model.eval()
    return validation(lambda batch: functional_call(whole, weights, (batch,)))


def oracle_gradient(
    model: nn.Module,
    loss: Loss,
    update: SGD | AdamW,
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

    result = unrolled(
        model,
        loss,
        sgd(update.nesterov) if isinstance(update, SGD) else adamw,
        lambda step: {k: value(h, step) for k, h in update.hypers.items()},
        batches,
        validation,
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
