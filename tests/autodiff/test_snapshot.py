"""What a step depends on besides its weights: put back where it can be, reported where not."""

import copy
import operator
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from autodiff.oracle import relative_error
from autodiff.problems import Partial, batch, batches, dropout, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, Clipped, ForwardMode, RecomputeError, hypergradient
from optuna_hypergrad.autodiff.generators import GeneratorStates
from optuna_hypergrad.autodiff.recompute import recomputation

STEPS = 20
SMALL = 100_000  # bytes; too few for all steps with their generators' states


def run(model: nn.Module, data: object, mode: str, lr: float = 0.2, **options):
    update = SGD(Schedule("lr", [lr] * 3), momentum=Schedule("momentum", [0.5]))
    torch.manual_seed(3)
    validation = batch(20)
    return hypergradient(
        model, loss_fn, update, data, validation, steps=STEPS, mode=mode, **options
    )


class Counted:
    """Another order in each pass, which it counts itself."""

    def __init__(self) -> None:
        self.data, self.passes = batches(7), 0

    def __iter__(self) -> Iterator[object]:
        self.passes += 1
        yield from self.data[self.passes % 7 :] + self.data[: self.passes % 7]


def test_small_steps_do_not_hide_what_differs() -> None:
    # With a tiny learning rate the weights of a wrong replay are almost those of the run.
    for memory in (30_000, 20_000):
        with pytest.raises(RecomputeError, match="came out differently"):
            run(mlp(), Counted(), "reverse", lr=1e-8, memory=memory)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_on_step_may_draw_without_changing_the_run(mode: str) -> None:
    def draws(step: int, loss: float) -> None:
        torch.rand(3), np.random.rand(), random.random()

    initial, data = dropout(), batches(STEPS)
    memory = {} if mode == "forward" else {"memory": SMALL}
    alone = run(copy.deepcopy(initial), data, mode, **memory)
    watched = run(initial, data, mode, on_step=draws, **memory)
    assert watched.gradient == alone.gradient


def test_what_on_step_changes_is_reported() -> None:
    model = dropout()

    def switch(step: int, loss: float) -> None:
        model.train(step % 2 == 0)

    with pytest.raises(RecomputeError, match="what on_step changed"):
        run(model, batches(STEPS), "reverse", memory=SMALL, on_step=switch)


class Remembering(nn.Module):
    """Buffers that are None at first, that are replaced, and that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.register_buffer("mean", None)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            now = x.detach().mean(0)
            self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
            self.seen = torch.cat([self.seen, now[:1]])[-5:]
        shift = self.mean if self.mean is not None else 0.0
        return self.inner(x - shift + 0.01 * len(self.seen) + self.seen.sum())


def test_buffers_may_begin_as_none_and_grow() -> None:
    initial, data = Remembering(), batches(STEPS)
    forward, reverse = copy.deepcopy(initial), copy.deepcopy(initial)
    expected = run(forward, data, "forward")
    for memory in (None, 11_000):
        model = copy.deepcopy(initial)
        assert (
            relative_error(run(model, data, "reverse", memory=memory).gradient, expected.gradient)
            < 1e-10
        )
        assert torch.equal(model.seen, forward.seen) and torch.equal(model.mean, forward.mean)
    assert reverse.mean is None


def test_generators_of_batch_samplers_are_put_back() -> None:
    data, found = TensorDataset(*batch(40)), []
    for mode in ("forward", "reverse"):
        sampler = RandomSampler(data, generator=torch.Generator().manual_seed(4))
        loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 8, drop_last=True))
        torch.manual_seed(0)
        memory = {} if mode == "forward" else {"memory": SMALL}
        found.append(run(dropout_of_seed(), loader, mode, **memory).gradient)
    assert relative_error(found[1], found[0]) < 1e-10


def dropout_of_seed() -> nn.Module:
    torch.manual_seed(1)
    return dropout()


def test_products_by_forward_mode_leave_the_generators_where_the_step_does() -> None:
    initial, data = dropout(), batches(STEPS)
    after = []
    for products in ("loop", "forward"):
        run(copy.deepcopy(initial), data, "forward", products=products)
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_microbatches_reach_what_one_of_them_reaches() -> None:
    initial, data = Partial(), batches(2 * STEPS)
    pairs = [
        (bool(a[0, 0] > 0), bool(b[0, 0] > 0))
        for (a, _), (b, _) in zip(data[::2], data[1::2], strict=True)
    ]
    assert (True, False) in pairs and (False, False) in pairs
    model = copy.deepcopy(initial)
    run(model, data, "forward", accumulate=2, learn=(), products="loop")
    plain, optimizer = initial, torch.optim.SGD(initial.parameters(), lr=0.2, momentum=0.5)
    for i in range(STEPS):
        optimizer.zero_grad()
        (sum(loss_fn(plain, one) for one in data[2 * i : 2 * i + 2]) / 2).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@dataclass
class Pair:
    images: Tensor
    labels: np.ndarray


def test_kept_batches_count_whatever_they_are_made_of() -> None:
    tensors = batches(STEPS)
    pairs = [Pair(x, y.numpy()) for x, y in tensors]

    def loss(model: nn.Module, one: Pair) -> Tensor:
        return loss_fn(model, (one.images, torch.as_tensor(one.labels)))

    update, initial = SGD(Schedule("lr", [0.2])), mlp()
    model = copy.deepcopy(initial)
    by_number = hypergradient(model, loss, update, pairs, pairs[0], steps=STEPS, mode="reverse")

    class Again:
        def __iter__(self) -> Iterator[Pair]:
            return iter(pairs)

    kept = hypergradient(initial, loss, update, Again(), pairs[0], steps=STEPS, mode="reverse")
    batch_bytes = sum(x.nbytes + y.numpy().nbytes for x, y in tensors)
    assert kept.kept_bytes - by_number.kept_bytes == pytest.approx(batch_bytes, rel=0.05)
    assert kept.gradient == by_number.gradient


def test_kept_bytes_count_points_between_records(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(p.numel() for p in mlp().parameters()) * 8
    # 20 gradients, 20 points with velocity but the first.
    found = run(mlp(), batches(STEPS), "reverse").kept_bytes
    assert found == weights * (STEPS + 1 + 2 * (STEPS - 1))
    monkeypatch.setattr(recomputation, "SMALL", 0)
    # 20 gradients, the first checkpoint (without velocity), and 7 points and then 2 with velocity.
    found = run(mlp(), batches(STEPS), "reverse").kept_bytes
    assert found == weights * (STEPS + 1 + 2 * (7 + 2))


def test_threads_may_differentiate_at_the_same_time() -> None:
    data, initial = batches(STEPS), mlp()

    def one(products: str) -> dict[str, float]:
        update = Clipped(SGD(Schedule("lr", [0.1, 0.2])), norm=1.0)
        model = copy.deepcopy(initial)
        return hypergradient(
            model, loss_fn, update, data, data[0], mode="forward", steps=STEPS, products=products
        ).gradient

    methods = ["loop", "forward", "batched", "forward-batched"]
    alone = [one(name) for name in methods]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(one, methods * 3))
    assert together == alone * 3


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_gradients_are_enabled_where_they_are_needed(mode: str) -> None:
    data, initial = batches(STEPS), mlp()
    expected = run(copy.deepcopy(initial), data, mode).gradient
    with torch.no_grad():
        assert run(copy.deepcopy(initial), data, mode).gradient == expected


def test_losses_hold_nothing_else() -> None:
    def loss(model: nn.Module, one: object) -> Tensor:
        return (loss_fn(model, one) + torch.zeros(100_000))[7]

    model = ForwardMode(mlp(), loss, SGD(Schedule("lr", [0.1])), steps=STEPS)
    for one in batches(STEPS):
        model.step(one)
    assert model._losses.untyped_storage().nbytes() == 8 * STEPS


CPU = torch.device("cpu")
DRAWS = {
    "torch": lambda: torch.rand(1),
    "numpy": lambda: np.random.rand(),
    "a pair of normals": lambda: np.random.randn(2),
    "Python": lambda: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_states_that_have_not_changed_are_shared(draw: str) -> None:
    np.random.seed(0)
    before = GeneratorStates.now(CPU)
    assert GeneratorStates.now(CPU, before=before) is before
    DRAWS[draw]()
    after = GeneratorStates.now(CPU, before=before)
    parts = ("torch_states", "numpy_state", "python_state")
    shared = [all(map(operator.is_, getattr(after, part), getattr(before, part))) for part in parts]
    assert shared.count(False) == 1
    assert 0 < after.bytes_beside(before) < 5100
    before.restore()
    assert GeneratorStates.now(CPU, before=before) is before


def test_as_many_numbers_as_a_state_has_of_python_change_it() -> None:
    before = GeneratorStates.now(CPU)
    expected = [random.getrandbits(32) for _ in range(624)]  # the position is the same again
    assert GeneratorStates.now(CPU, (), before) is not before
    before.restore()
    assert [random.getrandbits(32) for _ in range(624)] == expected


def test_a_normal_number_that_numpy_holds_back_is_a_part_of_the_state() -> None:
    np.random.seed(0)
    np.random.randn()  # numpy makes two at once
    before = GeneratorStates.now(CPU)
    held_back = np.random.randn()
    assert GeneratorStates.now(CPU, before=before) is not before
    before.restore()
    assert np.random.randn() == held_back


def test_another_kind_of_generator_of_numpy() -> None:
    usual = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.MT19937(5))
    try:
        before = GeneratorStates.now(CPU)
        np.random.rand()
        assert GeneratorStates.now(CPU, before=before) is not before
    finally:
        np.random.set_bit_generator(usual)
