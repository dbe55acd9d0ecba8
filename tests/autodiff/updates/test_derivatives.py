"""Every update can be differentiated forwards, backwards and by central differences alike."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parameters_to_vector

from autodiff.updates.runs import Heads, batches, loss_fn, updates
from optuna_hypergrad.autodiff.updates import SGD, Adam, Update, evaluated

STEPS = 6
# The nested choices are those of runs.updates; here every hyperparameter is learned at once.
CASES = {
    **updates(lambda name, value: value),
    "adam from beta = 0": lambda model: Adam(0.01, betas=(0.0, 0.5), eps=0.1),
    "sgd from zero": lambda model: SGD(0.0),
    "dampening": lambda model: SGD(0.2, momentum=0.9, dampening=0.3),
}


def validation_loss(update: Update, model: Heads) -> Callable[[Tensor], Tensor]:
    """Loss of the weights after STEPS steps, as a function of all hyperparameters at once."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    sizes = list(accumulate(p.numel() for p in named.values()))
    initial = parameters_to_vector(named.values())
    data, names = batches(STEPS + 1), list(update.hypers)

    def loss(weights: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        parts = zip(named.items(), weights.tensor_split(sizes[:-1]), strict=True)
        at = {name: part.view(p.shape) for (name, p), part in parts}
        return loss_fn(lambda x: functional_call(model, at, (x,)), batch)

    def final(hypers: Tensor) -> Tensor:
        weights, state = initial, ()
        for batch in data[:-1]:
            values = dict(zip(names, hypers.unbind(), strict=True))
            weights, state = update(weights, state, grad(loss)(weights, batch), values)
        return loss(evaluated(update, weights, state), data[-1])

    return final


def central_differences(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Of fourth order: (8·(f₁ − f₋₁) − (f₂ − f₋₂)) / 12h."""
    differences = []
    for i, value in enumerate(at.tolist()):
        h = 2e-4 * (min(abs(value), 1 - value) or 0.1)  # small beside 1 − β, too
        moved = at.repeat(4, 1)
        moved[:, i] += h * torch.tensor([1.0, -1.0, 2.0, -2.0])
        one, minus_one, two, minus_two = (f(point) for point in moved)
        differences.append((8 * (one - minus_one) - (two - minus_two)) / (12 * h))
    return torch.stack(differences)


@pytest.mark.parametrize("name", CASES)
def test_forwards_backwards_and_differences_agree(name: str) -> None:
    model = Heads()
    update = CASES[name](model)
    final, at = validation_loss(update, model), torch.tensor(list(update.hypers.values()))
    forwards = vmap(lambda direction: jvp(final, (at,), (direction,))[1])(torch.eye(len(at)))
    leaf = at.clone().requires_grad_()
    (backwards,) = torch.autograd.grad(final(leaf), leaf)
    differences = central_differences(final, at)
    torch.testing.assert_close(forwards, backwards, rtol=1e-11, atol=1e-15)
    scale = float(forwards.abs().max())
    torch.testing.assert_close(forwards, differences, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_finite_without_any_gradient(name: str) -> None:
    model = Heads()
    update = CASES[name](model)
    weights = parameters_to_vector(model.parameters()).detach()
    at = torch.tensor(list(update.hypers.values()))

    def moved(hypers: Tensor, gradient: Tensor) -> Tensor:
        state: tuple[Tensor, ...] = ()
        w, values = weights, dict(zip(update.hypers, hypers.unbind(), strict=True))
        for _ in range(2):
            w, state = update(w, state, gradient, values)
        return evaluated(update, w, state).square().sum()

    point = (at, torch.zeros_like(weights))
    _, forwards = jvp(moved, point, tuple(torch.ones_like(part) for part in point))
    leaves = [part.clone().requires_grad_() for part in point]
    backwards = torch.autograd.grad(moved(*leaves), leaves)
    assert torch.isfinite(forwards)
    torch.testing.assert_close(sum(part.sum() for part in backwards), forwards)
