"""What the preflight remembers of a run does not hide what a later run does otherwise."""

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.oracle import relative_error
from autodiff.problems import batch, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.second_order import preflight

ONCE = False  # a flag as notebooks have them


class Once(torch.autograd.Function):
    """Cannot be differentiated twice."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


def run(loss: Callable[..., Tensor], model: nn.Module | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    options.setdefault("update", SGD(Schedule("lr", [0.1, 0.1, 0.1])))
    model = mlp() if model is None else model
    return hypergradient(model, loss, validation=batch(8), batches=[batch(8)], steps=4, **options)


def entropy(through: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any], Tensor]:
    return lambda model, data: F.cross_entropy(through(model(data[0])), data[1])


def good(x: Tensor) -> Tensor:
    return x.tanh()


def bad(x: Tensor) -> Tensor:
    return Once.apply(x)


def by_flag(x: Tensor) -> Tensor:
    return bad(x) if ONCE else good(x)


def nested(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x)


def switched(is_bad: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: bad(x) if is_bad else good(x)


class Criterion(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return bad(x) if self.strength > 1 else good(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda is_bad: nested(nested(nested(bad if is_bad else good))),
        lambda is_bad: switched(np.bool_(is_bad)),
        lambda is_bad: switched(SimpleNamespace(bad=True) if is_bad else ()),
        lambda is_bad: Criterion(2.0 if is_bad else 0.5),
        lambda is_bad: nn.Sequential(Criterion(2 if is_bad else 0)),
        lambda is_bad: SimpleNamespace(f=bad if is_bad else good).f,
        lambda is_bad: partial(lambda x, f: f(x), f=bad if is_bad else good),
    ],
    ids=[
        "nested functions",
        "numpy",
        "namespace",
        "float of a module",
        "submodule",
        "method",
        "partial",
    ],
)
def test_a_loss_that_takes_another_branch_is_checked(make: Callable[[bool], Any]) -> None:
    assert run(entropy(make(False))).gradient
    with pytest.raises(ValueError, match="no second derivative"):
        run(entropy(make(True)))


def test_a_global_that_changes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(entropy(by_flag)).gradient
    monkeypatch.setitem(globals(), "ONCE", True)
    with pytest.raises(ValueError, match="no second derivative"):
        run(entropy(by_flag))


class WeightNormed(nn.Module):
    """With ``strength`` > 1, by an operation whose second derivative torch gets wrong."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.inner, self.g, self.strength = mlp(), nn.Parameter(torch.ones(3, 1).double()), strength

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        square = hidden.T @ hidden
        return hidden @ (torch._weight_norm(square, self.g, 0) if self.strength > 1 else square)


def test_a_float_that_selects_other_operations_gives_the_derivative_of_a_first_run() -> None:
    torch.manual_seed(3)
    models = [WeightNormed(2.0) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    preflight._plans.clear()
    first = run(entropy(good), models[0]).gradient
    preflight._plans.clear()
    run(entropy(good), WeightNormed(0.5))
    again = run(entropy(good), models[1]).gradient
    assert relative_error(again, first) < 1e-12


def test_a_hyperparameter_that_a_later_loss_ignores_is_warned_of() -> None:
    def loss(strength: float) -> Callable[..., Tensor]:
        def of(model: nn.Module, data: Any, hypers: Any) -> Tensor:
            scale = hypers["a"] if strength < 1 else 1.0
            return F.cross_entropy(model(data[0]) * scale, data[1])

        return of

    learned = {"hypers": {"a": Schedule("a", [1.0, 1.0])}, "update": SGD(0.1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(run(loss(0.5), **learned).gradient.values())
    with pytest.warns(UserWarning, match="depend on 'a'"):
        run(loss(2.0), **learned)


class Branching:
    """An update of the user; a float of it decides whether its derivative is that of its steps."""

    __slots__ = ("strength",)
    hypers: ClassVar[Any] = {"lr": Schedule("lr", [0.1, 0.1])}

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def init(self, weights: Tensor) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, weights: Tensor, state: Any, gradient: Tensor, hypers: Any) -> Any:
        norm = gradient.norm()
        scale = norm.item() if self.strength > 1 else norm
        return weights - hypers["lr"] * gradient / scale, state


def test_an_update_of_the_users_is_checked_in_every_run() -> None:
    assert run(entropy(good), update=Branching(0.5)).gradient
    with pytest.raises(ValueError, match=r"update: the derivative of a step of Branching differs"):
        run(entropy(good), update=Branching(2.0))


def test_warnings_of_a_loss_do_not_end_the_choice_of_a_method() -> None:
    def loud(x: Tensor) -> Tensor:
        warnings.warn("a loss may say so", FutureWarning, stacklevel=1)
        return x.tanh()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(entropy(loud), mode="forward").gradient
