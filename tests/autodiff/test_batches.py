"""One batch, an iterable of batches, and neither; judged by training with torch.optim."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from autodiff.problems import batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, ForwardMode, hypergradient
from optuna_hypergrad.autodiff.batches import TrainingBatches

STEPS, WORDS = 6, 7
MODES = ("forward", "reverse", "auto")


def run(model: nn.Module, loss: Any, data: Any, validation: Any, mode: str = "forward", **more):
    update = SGD(Schedule("lr", [0.2] * more.pop("windows", 1)))
    return hypergradient(model, loss, update, data, validation, steps=STEPS, mode=mode, **more)


def trained(model: nn.Module, loss: Any, data: list[Any]) -> nn.Module:
    """A copy of the model, trained by torch."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, data[step % len(data)]).backward()
        optimizer.step()
    return model


def language_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(WORDS, 4), nn.Linear(4, WORDS))


def next_word(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def words(count: int, length: int = 5, size: int = 8) -> list[Tensor]:
    return [torch.randint(WORDS, (size, length)) for _ in range(count)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [(5, 5), (5, 6)], ids=["alike", "different"])
def test_a_list_of_token_tensors_is_a_list_of_batches(mode: str, lengths: tuple[int, int]) -> None:
    model, data = language_model(), words(3)
    validation = [words(1, lengths[0])[0], words(1, lengths[1], size=4)[0]]
    expected = trained(model, next_word, data)
    losses = [float(next_word(expected, tokens).detach()) for tokens in validation]
    result = run(model, next_word, data, validation, mode)
    assert result.loss == pytest.approx((8 * losses[0] + 4 * losses[1]) / 12, rel=1e-12)


@pytest.mark.parametrize("mode", [*MODES, "none"])
def test_a_list_of_parts_alike_is_one_batch_where_training_batches_are(mode: str) -> None:
    """Inputs and targets of equal shape, which as two batches would train without a word."""

    def squares(model: nn.Module, batch: list[Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    model, loader = nn.Linear(4, 4), DataLoader(TensorDataset(*torch.randn(2, 24, 4)), 8)
    validation = list(torch.randn(2, 8, 4))
    expected = trained(model, squares, list(loader))
    options = {"learn": ()} if mode == "none" else {"mode": mode}
    result = run(model, squares, loader, validation, **options)
    assert isinstance(next(iter(loader)), list)
    assert result.loss == pytest.approx(float(squares(expected, validation).detach()), rel=1e-12)


def test_a_training_loop_of_ones_own_has_the_same_rule() -> None:
    model, data, validation = language_model(), words(1), words(2)
    mode = ForwardMode(model, next_word, SGD(Schedule("lr", [0.2])), steps=1)
    mode.step(data[0])
    losses = [float(next_word(model, tokens).detach()) for tokens in validation]
    assert mode.hypergradient(validation).loss == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("kind", ["tuple", "list", "loader of lists", "keys"])
def test_the_other_forms_of_validation_are_as_they_were(kind: str) -> None:
    class Graph:
        """Has keys and can be iterated, as graphs of PyTorch Geometric."""

        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.parts = [x, y]

        def keys(self) -> list[str]:
            return ["x", "y"]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(zip(self.keys(), self.parts, strict=True))

        def __getitem__(self, index: int) -> Tensor:
            return self.parts[index]

    x, y = batch(24)
    validation = {
        "tuple": (x, y),
        "list": [x, y],
        "loader of lists": DataLoader(TensorDataset(x, y), 7),
        "keys": Graph(x, y),
    }[kind]
    model, data = mlp(), batches(STEPS)
    expected = float(loss_fn(trained(model, loss_fn, data), (x, y)).detach())
    assert run(model, loss_fn, data, validation).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "once",
    [iter, lambda loader: (each for each in loader), lambda loader: Stored(loader)],
    ids=["iterator", "generator", "loader over an iterator"],
)
def test_validation_that_can_be_gone_through_once_loses_nothing(
    mode: str, once: Callable[[DataLoader], Any]
) -> None:
    model, data, loader = mlp(), batches(STEPS), DataLoader(TensorDataset(*batch(20)), 6)
    whole = run(copy.deepcopy(model), loss_fn, data, loader)
    assert run(model, loss_fn, data, once(loader), mode).loss == whole.loss


class Endless(IterableDataset):
    """A data set that is its own iterator."""

    def __init__(self, data: Any) -> None:
        self.data = iter(data)

    def __iter__(self) -> "Endless":
        return self

    def __next__(self) -> Any:
        return next(self.data)


class Stored(DataLoader):
    """A loader over what can be gone through only once, that knows its length."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(Endless(list(loader)), batch_size=None)
        self.count = len(loader)

    def __len__(self) -> int:
        return self.count


def test_a_shuffled_validation_set_is_the_same_in_every_mode() -> None:
    """The loader draws from its own generator."""
    model, data, found = mlp(), batches(STEPS), {}
    for mode in MODES:
        own = torch.Generator().manual_seed(3)
        validation = DataLoader(
            TensorDataset(*batch_of(40)), 6, shuffle=True, generator=own, drop_last=True
        )
        found[mode] = run(copy.deepcopy(model), loss_fn, data, validation, mode).loss
    assert found["forward"] == found["reverse"] == found["auto"]


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    x = torch.randn(size, 5, generator=drawn, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=drawn)


@pytest.mark.parametrize("mode", ["forward", "auto"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_that_come_once_are_each_trained_on_once(mode: str, shuffle: bool) -> None:
    """An iterator, a loader over one, and a function that goes on by itself."""
    model, data = mlp(), TensorDataset(*batch_of(8 * STEPS))

    def loader() -> DataLoader:
        torch.manual_seed(4)
        return DataLoader(data, 8, shuffle=shuffle)

    def function() -> Callable[[int], Any]:
        pending = iter(loader())
        return lambda step: next(pending)

    expected = trained(model, loss_fn, list(loader()))
    kinds = {
        "iterator": lambda: iter(loader()),
        "loader": lambda: Stored(loader()),
        "function": function,
    }
    for make in kinds.values():
        mine = copy.deepcopy(model)
        run(mine, loss_fn, make(), batch_of(8), mode)
        for one, other in zip(mine.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "reverse"])
def test_a_function_that_goes_on_by_itself_is_refused_before_the_training(mode: str) -> None:
    model, pending = mlp(), iter(batches(STEPS))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"another batch when it was called again .* mode='forw"):
        run(model, loss_fn, lambda step: next(pending), batch_of(8), mode, windows=2)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_function_of_numbers_texts_and_arrays_is_compared_by_them() -> None:
    def is_once_only(function: Callable[[int], Any]) -> bool:
        return TrainingBatches(function, torch.device("cpu")).is_once_only

    cyclic: list[Any] = [1, "text", np.array([1.0, np.nan]), np.array(["a", None], dtype=object)]
    cyclic.append(cyclic)
    assert not is_once_only(lambda step: cyclic)
    assert not is_once_only(lambda step: {"x": torch.rand(3), "y": object()})  # as if drawn again
    for values in ([1, 2], ["a", "b"], [np.array(["a"]), np.array(["b"])], [1, 1.0]):
        pending = iter(values)
        with pytest.raises(ValueError, match="another batch"):
            is_once_only(lambda step, pending=pending: [next(pending)])


def test_a_function_that_cannot_be_called_again_loses_nothing() -> None:
    pending = [batch_of(8)]
    data = TrainingBatches(lambda step: pending.pop(), torch.device("cpu"))
    assert data.is_once_only
    (first,) = data.take()
    assert torch.equal(first[0], batch_of(8)[0])


def test_a_function_that_draws_gives_what_it_gives_without_a_look_ahead() -> None:
    def noisy(step: int) -> tuple[Tensor, Tensor]:
        return torch.randn(8, 5), torch.randint(3, (8,))

    model, found = mlp(), {}
    for options in ({"learn": ()}, {"mode": "forward"}, {"mode": "reverse"}, {"mode": "auto"}):
        torch.manual_seed(6)
        found[str(options)] = run(
            copy.deepcopy(model), loss_fn, noisy, batch_of(8), **options
        ).train_losses
    torch.manual_seed(6)
    expected = copy.deepcopy(model)
    optimizer, losses = torch.optim.SGD(expected.parameters(), lr=0.2), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_fn(expected, noisy(step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for theirs in found.values():
        assert theirs == pytest.approx(losses, rel=1e-12)


class Letters(Dataset):
    """A data set of one's own, in the style of a map."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = batch_of(4)
        return x[index], y[index]


ARRAYS = [t.numpy() for t in batch_of(8)]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a data set": ({"validation": Letters()}, "validation: got the data set Letters.* DataLoader"),
    "a tensor data set": (
        {"batches": TensorDataset(*batch_of(4))},
        r"batches: got the data set TensorDataset.* DataLoader\(data, batch_size=",
    ),
    "a subset": ({"batches": Subset(Letters(), [0])}, "batches: got the data set Subset"),
    "an array": ({"validation": ARRAYS[0]}, "validation: got a numpy ndarray.*torch.from_numpy"),
    "arrays": ({"validation": tuple(ARRAYS)}, "validation: got a numpy ndarray"),
    "a list of arrays": ({"validation": ARRAYS}, "validation: got a numpy ndarray"),
    "one array": ({"batches": ARRAYS[0]}, "batches: got a numpy ndarray.*torch.from_numpy"),
    "a batch of arrays": ({"batches": tuple(ARRAYS)}, "batches: got a numpy ndarray"),
    "one batch": ({"batches": batch_of(8)}, r"batches: got a single batch.*\[batch\]"),
    "a list of parts": (
        {"batches": list(batch_of(8))},
        r"batches: got a list of different tensors \(float64 \(8, 5\), int64 \(8,\)\), which is "
        r"either one batch or a list of batches: write \[\(x, y\)\]",
    ),
    "nothing": ({"validation": None}, "validation must be a batch or an iterable of batches.*None"),
    "a function": ({"validation": batch_of}, "validation must be a batch or an iterable"),
    "a name": ({"validation": "data"}, "validation must be .*'data'"),
    "an empty list": ({"validation": []}, "validation: got no examples"),
    "batches without tensors": (
        {"validation": [["x"]]},
        "validation: the size of a batch is unknown",
    ),
    "torch's SGD": (
        {"update": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
        r"update must be .*, got torch.optim.SGD: use SGD\(lr=0.1\) of optuna_hypergrad.autodiff",
    ),
    "torch's class": (
        {"update": torch.optim.AdamW},
        r"got torch.optim.AdamW: use AdamW\(lr=0.1\) of optuna_hypergrad.autodiff",
    ),
    "torch's Adagrad": ({"update": torch.optim.Adagrad}, "Adagrad: use an update of your own"),
    "our class": ({"update": AdamW}, r"update must be an instance, got the class: write AdamW\("),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_the_training(name: str) -> None:
    changes, message = BAD[name]
    trainings: list[int] = []

    def counted(model: nn.Module, batch: Any) -> Tensor:
        trainings.append(1)
        return loss_fn(model, batch)

    arguments = {
        "model": mlp(),
        "loss_fn": counted,
        "update": SGD(Schedule("lr", [0.1])),
        "batches": batches(3),
        "validation": batch_of(8),
    }
    with pytest.raises(ValueError, match=message):
        hypergradient(**(arguments | changes), mode="forward", steps=STEPS)
    assert not trainings


@pytest.mark.parametrize("options", [{}, {"mode": "reverse"}, {"learn": ()}], ids=str)
def test_arrays_in_batches_are_named_where_the_loss_fails(options: dict[str, Any]) -> None:
    message = "loss_fn: .*numpy.ndarray.* The batch holds numpy arrays.*torch.from_numpy"
    with pytest.raises(TypeError, match=message):
        run(mlp(), loss_fn, [tuple(ARRAYS)], batch_of(8), **options)


def test_a_loss_may_make_tensors_of_arrays_itself() -> None:
    def converting(model: nn.Module, batch: Any) -> Tensor:
        return loss_fn(model, tuple(map(torch.from_numpy, batch)))

    model = mlp()
    expected = run(copy.deepcopy(model), loss_fn, [batch_of(8)], batch_of(8))
    found = run(model, converting, [tuple(ARRAYS)], [tuple(ARRAYS)])
    assert found.gradient == expected.gradient and found.loss == expected.loss
