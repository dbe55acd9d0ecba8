"""Trainings that are not what hypergradients take them for: refused by name, with the way out."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.stopping import Batch, batch, cross_entropy, network
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import (
    SGD,
    Clipped,
    ForwardMode,
    ParameterGroups,
    Projected,
    hypergradient,
)
from optuna_hypergrad.autodiff.checks.double import near
from optuna_hypergrad.autodiff.hparams import _log_once
from optuna_hypergrad.autodiff.updates import State, Values

MODES = ("forward", "reverse")
both = pytest.mark.parametrize("mode", MODES)


def run(model: nn.Module, loss=cross_entropy, mode="reverse", update=None, **options):
    data, update = batch(), update or SGD(Schedule("lr", [0.1]))
    return hypergradient(model, loss, update, [data], data, steps=4, mode=mode, **options)


class Recurrent(nn.Module):
    """Truncated back-propagation through time: the state goes on, its gradient does not."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(6, 8), nn.Linear(8, 2)
        self.register_buffer("state", torch.zeros(16, 8))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x, self.state)
        self.state = state.detach()
        return self.head(state)


class Teacher(nn.Module):
    """A moving average of the weights, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("average", self.net[0].weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.average.mul_(0.99).add_(self.net[0].weight, alpha=0.01)
        return self.net(x) + (x @ self.average.T)[:, :2]


@both
@pytest.mark.parametrize(("make", "name"), [(Recurrent, "state"), (Teacher, "average")])
def test_a_buffer_that_carries_weights_to_later_steps_is_named(make, name, mode: str) -> None:
    with pytest.raises(
        ValueError, match=rf"its buffers '{name}' depend on the weights.*constant_b"
    ):
        run(make(), mode=mode)


@both
def test_constant_buffers_leave_that_dependence_out(mode: str) -> None:
    """Against a training whose states are those of the first one, whatever its learning rate."""
    x, y = batch()
    start, e, steps = Recurrent(), 1e-6, 4

    def trained(lr: float, states: list[Tensor] | None) -> tuple[float, list[Tensor]]:
        model, seen = copy.deepcopy(start), []
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for step in range(steps):
            if states is not None:
                model.state = states[step]
            seen.append(model.state)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.state = states[steps] if states is not None else model.state
        return float(F.cross_entropy(model(x), y).detach()), [*seen, seen[-1]]

    model = copy.deepcopy(start)
    optimizer, states = torch.optim.SGD(model.parameters(), lr=0.1), [model.state]
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        states.append(model.state)
    ends = [trained(0.1 + s * e, states)[0] for s in (1, -1)]
    result = run(copy.deepcopy(start), mode=mode, constant_buffers=["state"])
    assert result.gradient["lr"] == pytest.approx((ends[0] - ends[1]) / (2 * e), rel=1e-6)


@both
def test_running_statistics_of_batch_norm_are_constants_without_being_named(mode: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    assert run(model, mode=mode).gradient["lr"] != 0.0


@both
def test_spectral_norm_is_refused_unless_its_vectors_are_constants(mode: str) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 2)
        ).double()

    with pytest.raises(ValueError, match=r"its buffers '0\.parametrizations\.weight\.0\._u', '0\."):
        run(make(), mode=mode)
    assert run(make(), mode=mode, constant_buffers=["0"]).gradient["lr"] != 0.0


@both
@pytest.mark.parametrize("inside", [False, True])
def test_a_teacher_in_a_second_module_is_refused(inside: bool, mode: str) -> None:
    model = nn.ModuleDict({"net": network()})
    teacher = copy.deepcopy(model["net"]).requires_grad_(False)
    if inside:
        model["teacher"] = teacher

    def loss(m: nn.ModuleDict, b: Batch) -> Tensor:
        with torch.no_grad():
            for average, weight in zip(teacher.parameters(), m["net"].parameters(), strict=True):
                average.mul_(0.9).add_(weight, alpha=0.1)
            target = teacher(b[0])
        return cross_entropy(m["net"], b) + F.mse_loss(m["net"](b[0]), target)

    changed = r".*changes 'teacher\.0\.weight', a parameter that is not learned" if inside else ""
    with pytest.raises(ValueError, match=rf"differs between two calls{changed}.*second module"):
        run(model, loss, mode)


@both
def test_a_model_that_counts_its_calls_is_refused(mode: str) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x) * min(self.calls / 10, 1.0)

    with pytest.raises(ValueError, match=r"differs between two calls.*Look for a counter"):
        run(Counting(), mode=mode)


@both
def test_a_model_that_only_keeps_records_is_not(mode: str) -> None:
    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls, self.means = network(), 0, []
            self.register_buffer("largest", torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.calls, y = self.calls + 1, self.net(x)
            self.means.append(y.detach().mean().item())
            self.last = y.detach()
            self.largest.copy_(y.detach().max())
            return y

    model = Recording()
    assert run(model, mode=mode).gradient == run(network(), mode=mode).gradient
    assert model.calls == len(model.means) and not model.last.requires_grad


def scaled_by_a_number(m: nn.Module, b: Batch) -> Tensor:
    loss = cross_entropy(m, b)
    return loss * loss.item()


@both
def test_a_number_that_left_torch_is_refused(mode: str) -> None:
    with pytest.raises(
        ValueError, match=r"differs from central differences .*number \(item, float"
    ):
        run(network(), scaled_by_a_number, mode)


@both
def test_each_of_two_losses_that_share_their_code_is_checked(mode: str) -> None:
    """Made by partial, by a closure, and by what wraps a function."""

    def scaled(m: nn.Module, b: Batch, wrong: bool) -> Tensor:
        return scaled_by_a_number(m, b) if wrong else cross_entropy(m, b)

    def wrapped(function):
        return lambda m, b: function(m, b)

    for make in (
        lambda wrong: partial(scaled, wrong=wrong),
        lambda w: lambda m, b: scaled(m, b, w),
    ):
        run(network(), make(False), mode)
        with pytest.raises(ValueError, match="differs from central differences"):
            run(network(), make(True), mode)
    run(network(), wrapped(cross_entropy), mode)
    with pytest.raises(ValueError, match="differs from central differences"):
        run(network(), wrapped(scaled_by_a_number), mode)


@both
def test_a_learned_value_that_partly_leaves_torch_is_refused(mode: str) -> None:
    def loss(m: nn.Module, b: Batch, h: dict[str, Tensor]) -> Tensor:
        return cross_entropy(m, b) * (h["p"] + h["p"].item() ** 2)

    with pytest.raises(ValueError, match="differs from central differences"):
        run(network(), loss, mode, hypers={"p": Schedule("p", [0.7])})


@both
def test_a_validation_loss_that_leaves_torch_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="of the loss in evaluation mode differs"):
        run(network(), mode=mode, validation_loss_fn=scaled_by_a_number)


@both
def test_a_buffer_that_only_validation_reads_is_named(mode: str) -> None:
    class Averaging(Teacher):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                super().forward(x)
                return self.net(x)
            return (x @ self.average.T)[:, :2] + self.net(x)

    with pytest.raises(ValueError, match=r"its buffers 'average' .* the loss in evaluation mode"):
        run(Averaging(), mode=mode)
    assert run(Averaging(), mode=mode, constant_buffers=["average"]).gradient["lr"] != 0.0


@both
def test_hooks_that_wait_for_grad_are_refused(mode: str) -> None:
    model = network()
    model[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=r"0\.weight has a hook of register_post_accumulate_grad"):
        run(model, mode=mode)


@both
def test_a_projection_by_numbers_is_refused(mode: str) -> None:
    model = network()
    update = Projected(
        SGD(Schedule("lr", [0.1])),
        model,
        lambda w: {"0.weight": w["0.weight"] / w["0.bias"].norm().item()},
    )
    with pytest.raises(ValueError, match="update: the derivative of a step of Projected differs"):
        run(model, mode=mode, update=update)


@both
def test_running_statistics_move_under_no_grad_as_in_torch(mode: str) -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.norm = network(), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.norm(self.net(x))
            return self.net(x) - target

    torch.manual_seed(0)
    x, y = batch()
    model, plain = Normalising(), Normalising()
    run(model, mode=mode)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(plain, (x, y)).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-12, atol=1e-14)


@both
def test_kinks_at_the_initial_weights_do_not_trip_the_check(mode: str) -> None:
    """Biases of zero, and inputs of zero, as at the rim of an image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.bias)
    x, y = batch()
    data = (x * (torch.arange(16) % 2)[:, None], y)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return cross_entropy(m, b) + 0.01 * sum(p.abs().sum() for p in m.parameters())

    lr = Schedule("lr", [0.1])
    result = hypergradient(model, loss, SGD(lr), [data], data, steps=2, mode=mode)
    assert result.gradient["lr"] != 0.0


def test_weights_that_must_stay_positive_do_not_trip_the_check() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.deviation = nn.Linear(6, 1), nn.Parameter(torch.tensor([0.01, 1.0]))

    def loss(m: Spread, b: Batch) -> Tensor:
        policy = torch.distributions.Normal(m.mean(b[0]), m.deviation, validate_args=True)
        return -policy.log_prob(b[1][:, None].double()).mean() * 1e-6

    assert run(Spread(), loss).gradient["lr"] != 0.0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardtanh, nn.ELU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_do_not_trip_the_check(activation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(64, 64), activation())]
    model = nn.Sequential(*layers, nn.Linear(64, 2)).to(dtype)
    data = torch.randn(256, 64, dtype=dtype), torch.randint(2, (256,))
    result = hypergradient(
        model, cross_entropy, SGD(Schedule("lr", [0.1])), [data], data, steps=2, mode="reverse"
    )
    assert result.gradient["lr"] != 0.0


def normalised() -> nn.Module:
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
    return nn.Sequential(*layers).float()


def test_the_check_leaves_the_model_as_it_was() -> None:
    model = normalised()
    x, y = batch()
    data = (x.float(), y)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    run_ = ForwardMode(model, cross_entropy, SGD(Schedule("lr", [0.0])), steps=1)
    torch.manual_seed(5)
    run_.step(data)
    drawn = torch.rand(())
    torch.manual_seed(5)
    plain = normalised()
    plain.load_state_dict(before)
    torch.manual_seed(5)
    cross_entropy(plain, data)
    assert torch.equal(drawn, torch.rand(()))
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, plain.state_dict()[name])
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_a_loss_that_does_not_run_in_double_precision_is_logged(
    log: pytest.LogCaptureFixture,
) -> None:
    def loss(m: nn.Sequential, b: Batch) -> Tensor:
        assert m[0].weight.dtype == torch.float32, "written for single precision"
        return cross_entropy(m, b)

    x, y = batch()
    data = (x.float(), y)
    update = SGD(Schedule("lr", [0.1]))
    hypergradient(network().float(), loss, update, [data], data, mode="forward", steps=2)
    assert "does not run in double precision" in log.text


def test_what_a_loss_holds_in_single_precision_is_no_obstacle_to_the_check() -> None:
    weights = torch.tensor([0.3, 0.7], dtype=torch.float32)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = F.cross_entropy(m(b[0]), b[1], weight=weights)
        return value * value.item()

    x, y = batch()
    data, lr = (x.float(), y), Schedule("lr", [0.1])
    with pytest.raises(ValueError, match="differs from central differences"):
        hypergradient(network().float(), loss, SGD(lr), [data], data, mode="forward", steps=2)


@both
@pytest.mark.parametrize("through", ["data", "no_grad", "max_norm"])
def test_weights_that_the_loss_changes_are_named(through: str, mode: str) -> None:
    def loss(m: nn.Sequential, b: Batch) -> Tensor:
        if through == "data":
            m[2].weight.data.clamp_(-0.1, 0.1)
        elif through == "no_grad":
            with torch.no_grad():
                m[2].weight.clamp_(-0.1, 0.1)
        else:
            F.embedding(torch.arange(2), m[2].weight, max_norm=0.1)
        return cross_entropy(m, b)

    with pytest.raises(ValueError, match=r"loss_fn: it changed the weights '2\.weight'.*Projected"):
        run(network(), loss, mode)


@both
def test_weights_that_the_loss_changes_only_later_are_named(mode: str) -> None:
    data = [(*batch(), clip) for clip in (False, False, True)]

    def loss(m: nn.Sequential, b: tuple[Tensor, Tensor, bool]) -> Tensor:
        if b[2]:
            m[0].weight.data.clamp_(-0.1, 0.1)
        return cross_entropy(m, b[:2])

    with pytest.raises(ValueError, match=r"loss_fn: it changed the weights '0\.weight'"):
        hypergradient(
            network(), loss, SGD(Schedule("lr", [0.1])), data, data[0], steps=3, mode=mode
        )


@both
def test_what_on_step_changes_is_named(mode: str) -> None:
    model = network()

    def clip(step: int, loss: float) -> None:
        model[0].weight.data.clamp_(-0.1, 0.1)

    with pytest.raises(ValueError, match=r"on_step: it changed the weights '0\.weight'"):
        run(model, mode=mode, on_step=clip)
    model = Teacher()
    constant = ["average"]

    def update(step: int, loss: float) -> None:
        model.average.mul_(0.5)

    run(model, mode="forward", on_step=update, constant_buffers=constant)
    model = nn.Sequential(network(), nn.Identity())
    model.register_buffer("scale", torch.ones(()))

    def rescale(step: int, loss: float) -> None:
        model.scale.mul_(0.5)

    with pytest.raises(ValueError, match=r"on_step: it changed 'scale' of the model"):
        run(model, mode=mode, on_step=rescale)


class Warm:
    """SGD whose steps a number scales that is none of its hyperparameters."""

    def __init__(self) -> None:
        self.hypers, self.warmth = {"lr": Schedule("lr", [0.1])}, 0.5

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        return weights - self.warmth * hypers["lr"] * gradient, state


@both
@pytest.mark.parametrize("wraps", [False, True])
def test_a_number_of_the_update_that_on_step_changes_is_named(mode: str, wraps: bool) -> None:
    """Steps back would take the last one for all steps."""
    warm = Warm()

    def on_step(step: int, loss: float) -> None:
        warm.warmth = min(warm.warmth + 0.1, 1.0)

    update = Clipped(warm, norm=1.0) if wraps else warm
    with pytest.raises(ValueError, match=r"on_step: it changed 'warmth' of the update.*Schedule"):
        run(network(), mode=mode, on_step=on_step, update=update)


def test_a_number_of_the_update_may_change_in_a_loop_of_ones_own() -> None:
    """Forward mode differentiates each step as it is taken."""
    model = network()

    def trained(lr: float) -> tuple[float, float]:
        warm, data = Warm(), batch()
        warm.hypers = {"lr": Schedule("lr", [lr])}
        run = ForwardMode(copy.deepcopy(model), cross_entropy, warm, steps=9)
        for step in range(9):
            warm.warmth = 0.5 + step // 3
            run.step(data)
        result = run.hypergradient(data)
        return result.loss, result.gradient["lr"]

    difference = (trained(0.1 + 1e-5)[0] - trained(0.1 - 1e-5)[0]) / 2e-5
    assert trained(0.1)[1] == pytest.approx(difference, rel=1e-6)


@both
def test_a_projection_is_differentiated(mode: str) -> None:
    """A clipped critic, as torch.optim trains it, against central differences."""
    x, y = batch()
    steps, bound = 6, 0.12

    def trained(lr: float) -> float:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model, (x, y)).backward()
            optimizer.step()
            with torch.no_grad():
                model[0].weight.clamp_(-bound, bound)
                model[2].weight.div_(model[2].weight.norm().clamp_min(1.0))
        return float(cross_entropy(model, (x, y)).detach())

    model = network()
    update = Projected(
        SGD(Schedule("lr", [0.1]), momentum=0.9),
        model,
        lambda w: {
            "0.weight": w["0.weight"].clamp(-bound, bound),
            "2.weight": w["2.weight"] / w["2.weight"].norm().clamp_min(1.0),
        },
    )
    data = (x, y)
    result = hypergradient(model, cross_entropy, update, [data], data, steps=steps, mode=mode)
    assert result.loss == pytest.approx(trained(0.1), rel=1e-12)
    expected = (trained(0.1 + 1e-6) - trained(0.1 - 1e-6)) / 2e-6
    assert result.gradient["lr"] == pytest.approx(expected, rel=1e-6)


def test_a_projection_gives_weights_of_the_model() -> None:
    model = network()
    for chosen, message in (
        ({"3.weight": torch.ones(1)}, r"projection: '3\.weight' is not a learned weight"),
        ({"0.weight": torch.ones(1)}, r"projection: 0\.weight must have shape \(8, 6\)"),
    ):
        update = Projected(SGD(Schedule("lr", [0.1])), model, lambda w, chosen=chosen: chosen)
        with pytest.raises(ValueError, match=message):
            run(model, update=update)
    with pytest.raises(ValueError, match="projection must be callable"):
        Projected(SGD(0.1), model, 3)
    with pytest.raises(ValueError, match=r"model must be a torch\.nn\.Module"):
        Projected(SGD(0.1), [], dict)


@both
@pytest.mark.parametrize("thaw", [True, False])
def test_requires_grad_that_changes_during_the_run_is_named(thaw: bool, mode: str) -> None:
    model = network()
    model[0].requires_grad_(not thaw)

    def change(step: int, loss: float) -> None:
        model[0].requires_grad_(thaw == (step >= 1))

    with pytest.raises(
        ValueError, match=r"requires_grad of '0\.weight' was changed.*windows of 0\.0"
    ):
        run(model, mode=mode, on_step=change)


@both
def test_gradual_unfreezing_is_a_window_of_zeros(mode: str) -> None:
    """As torch.optim does it whose second group joins later, against central differences."""
    x, y = batch()
    steps = 6

    def trained(lr: float, late: float) -> float:
        model = network()
        optimizer = torch.optim.SGD(model[2].parameters(), lr=lr)
        for step in range(steps):
            if step == steps // 2:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": late})
            optimizer.zero_grad()
            cross_entropy(model, (x, y)).backward()
            optimizer.step()
        return float(cross_entropy(model, (x, y)).detach())

    model, data, e = network(), (x, y), 1e-6
    late = Schedule("late", [0.0, 0.05])
    update = ParameterGroups(
        SGD(Schedule("lr", [0.1])), model, [{"params": model[0].parameters(), "lr": late}]
    )
    result = hypergradient(
        *(model, cross_entropy, update, [data], data),
        steps=steps,
        mode=mode,
        learn=["lr", "late_1"],
    )
    assert result.loss == pytest.approx(trained(0.1, 0.05), rel=1e-12)
    for name, up, down in (
        ("lr", trained(0.1 + e, 0.05), trained(0.1 - e, 0.05)),
        ("late_1", trained(0.1, 0.05 + e), trained(0.1, 0.05 - e)),
    ):
        assert result.gradient[name] == pytest.approx((up - down) / (2 * e), rel=1e-6)


@both
def test_a_learned_value_that_reaches_nothing_is_told_by_name(mode: str) -> None:
    def loss(m: nn.Module, b: Batch, h: dict[str, Tensor]) -> Tensor:
        return cross_entropy(m, b) * h["p"].detach().numpy().item()

    hypers = {"p": Schedule("scale", [1.0])}
    with pytest.raises(ValueError, match="follows its learned value 'p', but not as a tensor"):
        run(network(), loss, mode, hypers=hypers)
    with pytest.warns(UserWarning, match="depend on 'scale', so its hypergradient is 0"):
        unused = run(network(), lambda m, b, h: cross_entropy(m, b), mode, hypers=hypers)
    assert unused.gradient["scale"] == 0.0


class Halving:
    """An update that ignores what it is to learn."""

    def __init__(self) -> None:
        self.hypers = {"lr": Schedule("lr", [0.1])}

    def __call__(self, weights, state, gradient, hypers):
        return weights - hypers["lr"].item() * gradient, state


class Normalised(Halving):
    """An update that detaches the norm that it divides by."""

    def __call__(self, weights, state, gradient, hypers):
        return weights - hypers["lr"] * gradient / gradient.detach().norm(), state


@both
def test_an_update_that_ignores_a_learned_value_is_told_by_name(mode: str) -> None:
    with pytest.raises(ValueError, match=r"Halving does not depend on its learned .* 'lr' as a"):
        run(network(), mode=mode, update=Halving())
    update = SGD(0.1, dampening=Schedule("dampening", [0.5]))  # of a momentum that there is not
    with pytest.warns(UserWarning, match=r"SGD does not depend on its learned .* 'dampening'"):
        assert run(network(), mode=mode, update=update).gradient["dampening"] == 0.0


@both
def test_an_update_that_detaches_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="update: Normalised stops gradients"):
        run(network(), mode=mode, update=Normalised())


@pytest.mark.parametrize("form", ["constant", "linear"])
def test_windows_that_hold_no_step_are_told_once(form: str, log: pytest.LogCaptureFixture) -> None:
    lr = Schedule("lr", [0.1] * 9, form)
    _log_once.cache_clear()
    for _ in range(2):
        run(network(), update=SGD(lr))
        run(network(), update=SGD(lr), learn=())
    assert log.text.count("steps=4: 'lr_1' applies to no step") == 1


def test_constant_buffers_are_the_models() -> None:
    for names, message in (
        ("state", "must be a collection of names"),
        (["other"], r"'other' is no buffer of the model \(\['state'\]\), nor a module"),
        (3, "must be a collection of names"),
    ):
        with pytest.raises(ValueError, match=f"constant_buffers.*{message}"):
            run(Recurrent(), constant_buffers=names)


@both
def test_a_kink_where_derivatives_are_compared_is_no_fault(mode: str) -> None:
    model = network().double()
    kink = near(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))

    def loss(model: nn.Module, data: object) -> Tensor:
        weights = torch.cat([p.reshape(-1) for p in model.parameters()])
        return ((weights - kink).relu() * weights).sum() / 100

    assert run(model, loss, mode=mode).gradient["lr"]
