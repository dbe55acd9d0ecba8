"""Hyperparameters of the loss that are tensors, judged by autograd through the unrolled run."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, ForwardMode, Hypergradient, hypergradient

N, STEPS = 12, 6
X, Y = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(N) % 3
VALIDATION = X.flip(0) + 0.1, Y.roll(1)
WEIGHTS = torch.linspace(0.2, 1.4, N, dtype=torch.float64)
SCALES = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64).reshape(2, 4)


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_fn(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
    """Weighted examples, scaled inputs, smoothed labels."""
    x, y = batch
    x = x * (1 + hypers["scales"].sum(0)) + hypers["scales"][1]
    log_p = model(x).log_softmax(-1)
    smoothing = hypers["smoothing"]
    own = (1 - smoothing) * F.nll_loss(log_p, y, reduction="none") - smoothing * log_p.mean(-1)
    return (hypers["weights"][: len(y)] * own).mean()


def validation_loss_fn(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1]) + (hypers["scales"] ** 2).sum()


def batches(step: int) -> tuple[Tensor, Tensor]:
    chosen = (torch.arange(8) + 3 * step) % N
    return X[chosen], Y[chosen]


def run(**options: Any) -> Hypergradient:
    hypers = {"weights": WEIGHTS, "smoothing": Schedule("s", [0.1, 0.2]), "scales": SCALES}
    found = {
        "update": SGD(Schedule("lr", [0.3]), momentum=0.5),
        "steps": STEPS,
        "hypers": hypers,
        "validation_loss_fn": validation_loss_fn,
        "estimate": "exact",
        **options,
    }
    return hypergradient(model(), loss_fn, found.pop("update"), batches, VALIDATION, **found)


def unrolled() -> dict[str, Tensor]:
    """Hypergradients by autograd through all steps of SGD with momentum, written out."""
    net = model()
    names = [name for name, _ in net.named_parameters()]
    w = [p.detach().requires_grad_() for p in net.parameters()]
    v = [torch.zeros_like(p) for p in w]
    leaves = {"weights": WEIGHTS.clone(), "scales": SCALES.clone()}
    leaves |= {"lr": torch.tensor(0.3).double(), "s_0": torch.tensor(0.1).double()}
    leaves |= {"s_1": torch.tensor(0.2).double()}
    for leaf in leaves.values():
        leaf.requires_grad_()

    def call(loss: Any, w: list[Tensor], batch: Any, hypers: Any) -> Tensor:
        state = dict(zip(names, w, strict=True))
        called = lambda x: torch.func.functional_call(net, state, (x,))  # noqa: E731
        value: Tensor = loss(called, batch, hypers)
        return value

    for step in range(STEPS):
        hypers = {**leaves, "smoothing": leaves["s_0" if step < STEPS // 2 else "s_1"]}
        gradients = torch.autograd.grad(
            call(loss_fn, w, batches(step), hypers), w, create_graph=True
        )
        v = [0.5 * part + g for part, g in zip(v, gradients, strict=True)]
        w = [p - leaves["lr"] * part for p, part in zip(w, v, strict=True)]
    loss = call(validation_loss_fn, w, VALIDATION, leaves)
    return dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))


@pytest.mark.parametrize("options", [{}, {"memory": 10_000}, {"products": "forward"}], ids=str)
def test_they_are_those_of_the_unrolled_run(options: dict[str, Any]) -> None:
    found, expected = run(**options), unrolled()
    assert found.mode == "reverse"
    assert {name: t.shape for name, t in found.tensors.items()} == {
        "weights": (N,),
        "scales": (2, 4),
    }
    for name, value in found.tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)
    assert found.gradient == pytest.approx({n: float(expected[n]) for n in ("lr", "s_0", "s_1")})
    assert set(found.per_step or {}) == {"lr", "s"}


def test_a_tensor_has_the_hypergradients_of_as_many_numbers() -> None:
    def by_number(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
        stacked = torch.stack([hypers[f"w_{i}"] for i in range(N)])
        return loss_fn(model, batch, {"weights": stacked, "scales": SCALES, "smoothing": 0.0})

    def by_tensor(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
        return loss_fn(model, batch, {**hypers, "scales": SCALES, "smoothing": 0.0})

    def ended(loss: Any, hypers: dict[str, Any]) -> Hypergradient:
        update = AdamW(0.05, (0.8, 0.9), 1e-8, 0.1)
        options: dict[str, Any] = {"steps": STEPS, "hypers": hypers, "mode": "reverse"}
        return hypergradient(
            model(),
            loss,
            update,
            batches,
            VALIDATION,
            validation_loss_fn=lambda m, b, h: F.cross_entropy(m(b[0]), b[1]),
            **options,
        )

    numbers = {f"w_{i}": Schedule(f"w_{i}", [float(w)]) for i, w in enumerate(WEIGHTS)}
    one, other = ended(by_number, numbers), ended(by_tensor, {"weights": WEIGHTS})
    assert other.loss == one.loss and other.gradient == {}
    torch.testing.assert_close(
        other.tensors["weights"], torch.tensor([*one.gradient.values()]).double()
    )


def test_initial_weights_may_depend_on_a_tensor() -> None:
    def initial(weights: Any, hypers: Any) -> dict[str, Tensor]:
        return {"0.weight": weights["0.weight"] * hypers["gains"][:, None]}

    def loss(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def ended(gains: Tensor, learn: bool = True) -> Hypergradient:
        return hypergradient(
            model(),
            loss,
            SGD(0.3),
            batches,
            VALIDATION,
            steps=STEPS,
            hypers={"gains": gains},
            initial=initial,
            learn=learn,
            estimate="exact",
        )

    gains = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    found = ended(gains).tensors["gains"]
    for i in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = 1e-6
        difference = (ended(gains + step, False).loss - ended(gains - step, False).loss) / 2e-6
        assert float(found[i]) == pytest.approx(difference, rel=1e-5)


def test_one_that_is_left_out_of_learn_is_constant() -> None:
    found = run(learn=["weights"])
    assert [*found.tensors] == ["weights"] and found.gradient == {}
    torch.testing.assert_close(found.tensors["weights"], run().tensors["weights"])
    assert run(learn=()).tensors == {} and run(learn=["lr"]).mode == "forward"


def test_a_run_that_diverges_says_nan() -> None:
    found = run(update=SGD(1e308, momentum=0.9))
    assert found.tensors["scales"].isnan().all() and found.tensors["scales"].shape == (2, 4)


def test_an_unused_tensor_is_warned_of() -> None:
    hypers = {"weights": WEIGHTS, "smoothing": 0.1, "scales": SCALES, "idle": torch.ones(3)}
    with pytest.warns(UserWarning, match="'idle', so its hypergradient is 0"):
        found = run(hypers=hypers)
    assert not found.tensors["idle"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "forward"}, "'weights' is a tensor, and forward mode"),
        ({"truncate": 0.1}, "learning the tensor 'weights' has no tangents to stand still"),
        ({"learn": ["weight"]}, "nor a tensor"),
        ({"hypers": {"weights": torch.arange(3)}}, "weights must be of floating numbers, got"),
        ({"hypers": {"s": WEIGHTS, "t": Schedule("s", [0.1])}}, "parameter 's', like a tensor"),
    ],
    ids=str,
)
def test_what_cannot_be_learned_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_forward_mode_refuses_one() -> None:
    with pytest.raises(ValueError, match="forward mode would take a tangent"):
        ForwardMode(model(), loss_fn, SGD(0.1), steps=2, hypers={"weights": WEIGHTS})
