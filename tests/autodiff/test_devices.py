"""No tensor is made on another device than the model's, which a GPU would refuse to mix with it.

A device stands in for the GPU whose tensors are computed on the CPU, but do not mix with those of
the CPU. It is called meta, since torch knows this one everywhere. (Not forward mode, where torch's
vmap crashes on such tensors.)
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from autodiff.answering import READS, Answering
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Clipped, hypergradient

DEVICE = torch.device("meta")
_aten = torch.ops.aten
COPIES = (_aten.copy_.default, _aten._to_copy.default, _aten._foreach_copy_.default)


class There(Tensor):
    """A tensor of the device, which holds one of the CPU."""

    inner: Tensor
    is_meta = False  # it has values

    @staticmethod
    def of(inner: Tensor) -> "There":
        made = Tensor._make_wrapper_subclass(
            There,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:  # torch has none for other classes
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return computed(func, args, kwargs or {})


class Numbers(TorchFunctionMode):
    """Makes tensors of Python's numbers there, where torch would make them without values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor and isinstance(args[0], There):
            return There.of(torch.tensor(args[1], dtype=args[0].dtype))
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            return There.of(torch.tensor(*args, **{**kwargs, "device": None}))
        return func(*args, **kwargs)


@contextmanager
def device(answer: Callable[..., Any] | None = None) -> Iterator[None]:
    with Answering(answer or computed), Numbers():
        yield


def computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call, computed on the CPU; its result is on the device of its arguments."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    is_there = any(isinstance(one, There) for one in tensors)
    mixed = [(one.shape, one.device) for one in tensors if not isinstance(one, There) and one.dim()]
    if is_there and mixed and func not in COPIES:
        raise RuntimeError(f"{func} mixes the device's tensors with those of the CPU: {mixed}")
    if (device := kwargs.get("device")) is not None:
        is_there, kwargs["device"] = torch.device(device) == DEVICE, torch.device("cpu")
    own = tree_map(lambda one: one.inner if isinstance(one, There) else one, (args, kwargs))
    results = func(*own[0], **own[1])
    if not is_there:
        return results
    results = tree_map(lambda one: There.of(one) if isinstance(one, Tensor) else one, results)
    return return_and_correct_aliasing(func, args, kwargs, results)


def moved(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(There.of(parameter.detach()))
        for name, buffer in module._buffers.items():
            module._buffers[name] = There.of(buffer) if buffer is not None else None
    return model


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the device a generator, which nothing draws from, and no autocast."""
    own = torch.Generator()
    module = SimpleNamespace(
        get_rng_state=lambda device: own.get_state(),
        set_rng_state=lambda state, device: own.set_state(state),
    )
    monkeypatch.setattr(torch, "meta", module, raising=False)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)


def test_it_stands_in_for_another_device() -> None:
    with device():
        there = There.of(torch.ones(3))
        assert (2 * there + torch.tensor(1.0)).device == DEVICE
        assert (there.new_zeros(3) + torch.zeros(3, device=DEVICE)).tolist() == [0.0] * 3
        with pytest.raises(RuntimeError, match="mixes"):
            there + torch.ones(3)


def network() -> nn.Module:
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.1), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor], hypers: dict[str, Any]) -> Tensor:
    squares = sum(p.square().sum() for p in model.parameters())
    return F.cross_entropy(model(batch[0]), batch[1]) + hypers["decay"] * squares


UPDATES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: SGD(
        Schedule("lr", [0.1, 0.2]), momentum=Schedule("momentum", [0.5]), nesterov=True
    ),
    "adamw": lambda: AdamW(Schedule("lr", [0.01, 0.02]), weight_decay=Schedule("decay", [0.1])),
    "clipped": lambda: Clipped(
        SGD(Schedule("lr", [0.1, 0.2], "linear")), norm=Schedule("norm", [1.0])
    ),
}


@pytest.mark.parametrize(
    ("update", "options"),
    [
        ("sgd", {"learn": ()}),
        ("adamw", {"mode": "reverse"}),
        ("sgd", {"mode": "reverse", "memory": 60_000, "clip_products": 0.1}),
        ("clipped", {"mode": "reverse", "statistics": "running"}),
    ],
    ids=str,
)
def test_a_run_stays_on_the_device_of_its_model(update: str, options: dict[str, Any]) -> None:
    def run(device: Callable[[Tensor], Tensor], model: nn.Module) -> Any:
        data = [
            (device(x), device(x.sum(1).long() % 3)) for x in torch.ones(4, 8, 6).double().cumsum(1)
        ]
        torch.manual_seed(1)
        hypers = {"decay": Schedule("penalty", [0.01, 0.1])}
        return hypergradient(
            model, loss_fn, UPDATES[update](), data, data[0], steps=10, hypers=hypers, **options
        )

    torch.manual_seed(0)
    models = [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    expected = run(lambda tensor: tensor, models[0])
    with device():
        found = run(There.of, moved(models[1]))
    assert found.gradient == pytest.approx(expected.gradient, rel=1e-10)  # by other kernels
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


def reads(n_layers: int, steps: int) -> int:
    """How often a run reads from the device."""
    counted: Counter[str] = Counter()

    def count(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        is_to_host = kwargs.get("device") == torch.device("cpu") and isinstance(args[0], There)
        counted["reads"] += func in READS or is_to_host
        return computed(func, args, kwargs)

    def tolist(one: There) -> Any:
        counted["reads"] += 1
        return one.inner.tolist()

    torch.manual_seed(0)
    layers = [nn.BatchNorm1d(6) for _ in range(n_layers)]
    model = nn.Sequential(*layers, nn.Linear(6, 3)).double()
    with device(count), pytest.MonkeyPatch.context() as patch:
        patch.setattr(There, "tolist", tolist)
        x, y = There.of(torch.randn(8, 6).double()), There.of(torch.arange(8) % 3)
        hypergradient(
            moved(model),
            lambda m, b: F.cross_entropy(m(b[0]), b[1]),
            UPDATES["sgd"](),
            [(x, y)],
            (x, y),
            steps=steps,
            mode="reverse",
        )
    return counted["reads"]


def test_a_device_is_read_from_once_for_all_buffers() -> None:
    for n_layers in (1, 4):
        _, few, many = (reads(n_layers, steps) for steps in (4, 20, 28))  # the first one is checked
        # After a step, before the step back, and its gradient and measurements.
        assert many - few == 4 * 8
