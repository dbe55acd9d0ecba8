"""Models as people use them: autograd through 20 unrolled steps agrees, 8 of the large models."""

import copy
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autodiff.models import PROBLEMS, Checkpointed, Problem, Transformer, alex, images, resnet
from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import batch, batches, convolutional, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, Hypergradient, Update, hypergradient

STEPS = 20
LARGE = ("ResNet-18", "AlexNet")
RANDOM = ("LSTM", "transformer", "activation checkpointing")  # with dropout


def sgd(lr: float) -> SGD:
    return SGD(
        Schedule("lr", [lr, lr / 2]),
        momentum=Schedule("momentum", [0.5]),
        weight_decay=Schedule("decay", [1e-2]),
    )


def adamw(lr: float) -> AdamW:
    betas = Schedule("beta1", [0.8]), Schedule("beta2", [0.95])
    decay = Schedule("decay", [0.1])
    return AdamW(Schedule("lr", [lr, lr / 2]), betas, Schedule("eps", [0.02]), decay)


def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """The second derivative of torch's own is wrong."""
    assert dim == 0
    lengths = v.flatten(1).norm(dim=1)
    return g * v / lengths.reshape(-1, *[1] * (v.dim() - 1))


def judge(problem: Problem, update: Update, steps: int = STEPS) -> Callable[..., Hypergradient]:
    """``hypergradient`` of a run, as a function of its other arguments, held to the oracle."""
    initial = problem.make()
    data, validation = [problem.batch() for _ in range(steps)], problem.batch()
    unrolled = copy.deepcopy(initial)
    for module in unrolled.modules():
        if isinstance(module, Checkpointed):  # else it would go back to weights of its own
            module.again = False

    def validated(of: Callable[[object], Tensor]) -> Tensor:
        for module in unrolled.modules():  # with the statistics of the batch, as the engine does
            module.train(isinstance(module, nn.modules.batchnorm._BatchNorm))
        return of(validation)

    torch.manual_seed(1)  # the same masks of dropout
    with sdpa_kernel(SDPBackend.MATH), patch("torch._weight_norm", weight_norm):
        loss, expected = oracle_gradient(unrolled, problem.loss, update, data, validated)

    def judged(**options: object) -> Hypergradient:
        torch.manual_seed(1)
        model = copy.deepcopy(initial)
        result = hypergradient(
            model,
            problem.loss,
            update,
            data,
            validation,
            steps=steps,
            **{"mode": "forward", **options},
        )
        assert result.loss == pytest.approx(loss, rel=1e-12)
        assert all(expected.values())
        assert relative_error(result.gradient, expected) <= 1e-9
        return result

    return judged


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in PROBLEMS],
)
def test_equals_the_unrolled_run(name: str) -> None:
    problem = PROBLEMS[name]
    judged = judge(problem, sgd(problem.lr), steps=8 if name in LARGE else STEPS)
    judged(mode="reverse")
    if name != "AlexNet":  # which takes minutes; see below
        judged()


@pytest.mark.parametrize("name", RANDOM)
def test_equals_the_unrolled_run_with_little_memory(name: str) -> None:
    judged = judge(PROBLEMS[name], sgd(0.05), steps=3 * STEPS)
    whole = judged(mode="reverse")
    parts = judged(mode="reverse", memory=int(0.6 * whole.kept_bytes))
    assert whole.recomputed == 0 < parts.recomputed
    assert parts.kept_bytes < 0.7 * whole.kept_bytes


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_equals_the_unrolled_run_of_adamw(mode: str) -> None:
    judge(PROBLEMS["transformer"], adamw(0.02))(mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "steps", "mode"),
    [
        (PROBLEMS["AlexNet"], STEPS, "forward"),
        (Problem(lambda: resnet(whole=True), images(32, 4), lr=0.01), STEPS, "reverse"),
        (Problem(lambda: alex(whole=True), images(64, 2), lr=0.01), 3, "reverse"),
    ],
    ids=["AlexNet", "all weights of ResNet-18", "all weights of AlexNet, 3 steps"],
)
def test_equals_the_unrolled_run_of_large_models(problem: Problem, steps: int, mode: str) -> None:
    """As many steps of AlexNet's 57 million weights as an unrolled run keeps in 11 GB."""
    judge(problem, sgd(problem.lr), steps)(mode=mode)


def test_attention_is_back_to_its_default_afterwards() -> None:
    problem = PROBLEMS["transformer"]
    model, data = Transformer(dropout=0.0), problem.batch()
    flags = [
        torch.backends.cuda.flash_sdp_enabled,
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.math_sdp_enabled,
    ]
    before = [flag() for flag in flags]
    for mode in ("forward", "reverse"):
        hypergradient(model, problem.loss, sgd(0.1), [data], data, steps=2, mode=mode)
        assert [flag() for flag in flags] == before
    q = torch.randn(1, 1, 3, 4, requires_grad=True)
    slope = torch.autograd.grad(F.scaled_dot_product_attention(q, q, q).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(slope[0].sum(), q)


@pytest.fixture
def anew() -> None:
    """torch gives up compiling what has been compiled often, by other tests, too."""
    torch._dynamo.reset()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend=counting)


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend=counting)
    return model


runs = 0


def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    """torch's backend "aot_eager", which counts how often its code is run."""
    inner = torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def run(*args: Tensor) -> object:
        global runs
        runs += 1
        return inner(*args)

    return run


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("change", [compiled, compiled_in_place])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_compiled_models_are_differentiated_as_their_python(
    change: Callable[[nn.Module], nn.Module], mode: str
) -> None:
    data, model = batches(6), convolutional()
    expected, found = (
        hypergradient(
            change(copy.deepcopy(model)) if changed else copy.deepcopy(model),
            loss_fn,
            sgd(0.1),
            data,
            data[0],
            steps=6,
            mode=mode,
            products="loop",
        )
        for changed in (False, True)
    )
    assert found.gradient == expected.gradient
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("change", [compiled, compiled_in_place])
def test_plain_training_runs_compiled_code(change: Callable[[nn.Module], nn.Module]) -> None:
    global runs
    torch._dynamo.reset()  # it gives up compiling what other tests have compiled often
    data, model = batches(5), change(mlp())
    hypergradient(model, loss_fn, sgd(0.1), data, data[0], mode="forward", steps=5)
    runs = 0
    hypergradient(model, loss_fn, sgd(0.1), data, data[0], steps=5, learn=())
    assert runs >= 5


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_channels_last(mode: str) -> None:
    problem = PROBLEMS["weight norm"]
    convolutions = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)
    initial = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(36, 10))
    data = [problem.batch() for _ in range(6)]
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        model = copy.deepcopy(initial).to(memory_format=layout)
        arranged = [(x.to(memory_format=layout), y) for x, y in data]
        result = hypergradient(
            model, problem.loss, sgd(0.1), arranged, arranged[0], steps=6, mode=mode
        )
        gradients.append(result.gradient)
        assert model[0].weight.is_contiguous(memory_format=layout)
    assert relative_error(*gradients) < 1e-12


def halved(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The model's part in bfloat16, the loss in the dtype of the weights."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch[0])
    return F.cross_entropy(outputs.float(), batch[1])


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("options", [{"mode": "forward"}, {"mode": "reverse", "memory": 40_000}])
def test_half_precision_of_the_model_keeps_most_signs(
    make: Callable[[], nn.Module], options: dict[str, object]
) -> None:
    steps = 120
    initial = make().float()
    data = [(x.float(), y) for x, y in batches(steps, 32)]
    x, y = batch(64)
    update = SGD(
        Schedule("lr", [0.1] * 10), Schedule("momentum", [0.5]), weight_decay=Schedule("wd", [1e-3])
    )
    single, half = (
        hypergradient(
            copy.deepcopy(initial),
            loss,
            update,
            data,
            (x.float(), y),
            steps=steps,
            **{"mode": "forward", **options},
        )
        for loss in (loss_fn, halved)
    )
    same = sum(half.gradient[k] * v > 0 for k, v in single.gradient.items())
    assert same >= 9  # of 12; see docs/models.md for larger models
    assert half.loss == pytest.approx(single.loss, rel=0.05)
    assert half.loss != single.loss


def test_autocast_around_the_whole_run_trains_with_the_present_weights() -> None:
    # Autocast keeps the weights' copies in half precision for as long as it lasts.
    model, data, update = mlp().float(), [(x.float(), y) for x, y in batches(6)], SGD(0.5)
    inside = hypergradient(
        copy.deepcopy(model), halved, update, data, data[0], mode="forward", steps=6
    )
    with torch.autocast("cpu", torch.bfloat16):
        around = hypergradient(model, halved, update, data, data[0], mode="forward", steps=6)
    assert around.loss == inside.loss
