"""Parameters of every shape: numbers, none at all, and those that are refused by name."""

import copy

import pytest
import torch
from torch import Tensor, nn

from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, ParameterGroups, Update, hypergradient

STEPS = 12
PRODUCTS = ("loop", "batched", "forward", "forward-batched")


class Scaled(nn.Module):
    """CLIP's ``logit_scale`` and a bias of shape (), and a layer without weights between them."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale, self.inner = nn.Parameter(torch.tensor(0.5)), mlp()
        self.empty, self.bias = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.logit_scale.exp() * self.inner(x) + self.bias * x[:, :3] + self.empty.sum()


def sgd() -> SGD:
    return SGD(Schedule("lr", [0.2, 0.1]), Schedule("momentum", [0.5]), Schedule("decay", [1e-2]))


def adamw() -> AdamW:
    return AdamW(Schedule("lr", [0.02, 0.01]), eps=Schedule("eps", [0.02]))


@pytest.mark.parametrize("update", [sgd(), adamw()], ids=["SGD", "AdamW"])
@pytest.mark.parametrize(
    "options", [{"mode": "reverse"}, *({"products": way} for way in PRODUCTS)], ids=str
)
def test_a_parameter_may_be_a_number(update: Update, options: dict[str, object]) -> None:
    initial, data, validation = Scaled(), batches(STEPS), batch(20)
    loss, expected = oracle_gradient(
        copy.deepcopy(initial), loss_fn, update, data, lambda of: of(validation)
    )
    result = hypergradient(
        initial, loss_fn, update, data, validation, steps=STEPS, **{"mode": "forward", **options}
    )
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(result.gradient, expected) < 1e-9


def test_a_number_is_trained_as_torch_trains_it() -> None:
    model, data = Scaled(), batches(STEPS)
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    for each in data:
        optimizer.zero_grad()
        loss_fn(expected, each).backward()
        optimizer.step()
    hypergradient(model, loss_fn, SGD(0.1, momentum=0.9), data, data[0], steps=STEPS, learn=())
    for mine, torchs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_number_may_have_a_group_and_an_initial_value_of_its_own(mode: str) -> None:
    def run(start: float, lr: float) -> float:
        """The validation loss of the same training by torch."""
        model = copy.deepcopy(initial)
        nn.init.constant_(model.logit_scale, start)
        others = [p for name, p in model.named_parameters() if name != "logit_scale"]
        groups = [{"params": others}, {"params": [model.logit_scale], "lr": lr}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        for each in data:
            optimizer.zero_grad()
            loss_fn(model, each).backward()
            optimizer.step()
        return float(loss_fn(model, data[0]).detach())

    initial, data = Scaled(), batches(STEPS)
    model = copy.deepcopy(initial)
    own = {"params": [model.logit_scale], "lr": Schedule("scale_lr", [0.3])}
    result = hypergradient(
        model,
        lambda model, batch, hypers: loss_fn(model, batch),
        ParameterGroups(SGD(0.1), model, [own]),
        data,
        data[0],
        steps=STEPS,
        mode=mode,
        hypers={"start": Schedule("start", [0.4])},
        initial=lambda weights, hypers: {
            "logit_scale": 0.0 * weights["logit_scale"] + hypers["start"]
        },
    )
    e = 1e-5
    expected = {
        "scale_lr": (run(0.4, 0.3 + e) - run(0.4, 0.3 - e)) / (2 * e),
        "start": (run(0.4 + e, 0.3) - run(0.4 - e, 0.3)) / (2 * e),
    }
    assert result.loss == pytest.approx(run(0.4, 0.3), rel=1e-12)
    assert relative_error(result.gradient, expected) < 1e-7


def embedded() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 5, sparse=True), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("options", [{}, {"mode": "reverse"}, {"learn": ()}], ids=str)
def test_sparse_gradients_are_refused(options: dict[str, object]) -> None:
    model, data = embedded(), (torch.randint(6, (8, 2)), torch.randint(3, (8,)))
    model(data[0])
    with pytest.raises(ValueError, match=r"gradient .*is sparse.* sparse=False") as caught:
        hypergradient(
            model,
            loss_fn,
            SGD(Schedule("lr", [0.1])),
            [data],
            data,
            steps=3,
            **{"mode": "forward", **options},
        )
    assert str(caught.value).startswith("model: ") and "0" in str(caught.value)


def test_lazy_modules_have_to_be_called_first() -> None:
    data = (torch.randint(6, (8, 2)), torch.randint(3, (8,)))
    with pytest.raises(ValueError, match=r"model: 2\.weight has no shape yet; call the model once"):
        hypergradient(
            embedded(), loss_fn, SGD(Schedule("lr", [0.1])), [data], data, mode="forward", steps=3
        )
