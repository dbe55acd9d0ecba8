"""Arrays of hyperparameters: how they move, and what becomes of them in studies."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import torch.nn.functional as F
from optuna import storages
from optuna.trial import FixedTrial, TrialState
from torch import Tensor, nn

import databases
import servers
from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    Schedule,
    best_schedules,
    recommended,
    report_hypergradient,
    suggest_array,
    suggest_schedule,
    visualization,
    wants_hypergradient,
)
from optuna_hypergrad.autodiff import SGD, ParameterGroups, hypergradient
from optuna_hypergrad.reports.arrays import read_array, read_array_gradient
from optuna_hypergrad.reports.attributes import StoredDataError

N = 60
TARGET = np.linspace(0, 1, N)
SAMPLERS: dict[str, Callable[[], Any]] = {
    "tpe": lambda: optuna.samplers.TPESampler(seed=0),
    "gaussian_process": lambda: GradientSampler(seed=0),
    "sign_descent": lambda: GradientSampler(seed=0, strategy="sign_descent"),
    "population": lambda: PopulationSampler(seed=0, population_size=2),
}


def bowl(trial: optuna.trial.BaseTrial, target: Any = TARGET) -> float:
    x = suggest_array(trial, "x", 0.0, 1.0, np.shape(target))
    assert wants_hypergradient(trial)
    report_hypergradient(trial, {"x": 2 * (x - target)})
    return float(((x - target) ** 2).mean())


def arrays(study: optuna.Study, name: str = "x") -> list[Any]:
    found = [read_array(trial, name) for trial in study.trials]
    return [None if one is None else one.values for one in found]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_array_is_learned_beside_any_sampler(sampler: str) -> None:
    study = optuna.create_study(sampler=SAMPLERS[sampler]())
    study.optimize(bowl, n_trials=20)
    assert study.best_value < 1e-2 * study.trials[0].value
    again = suggest_array(study.best_trial, "x", 0.0, 1.0, N)
    assert float(((again - TARGET) ** 2).mean()) == study.best_value
    assert recommended(study).params == pytest.approx({"x": again.mean()})
    assert [*best_schedules(study)] == []


def test_parameters_beside_an_array_are_searched_as_ever() -> None:
    def objective(trial: optuna.Trial) -> float:
        y = suggest_schedule(trial, "y", -1.0, 1.0, windows=2)
        loss = sum((value - 0.3) ** 2 for value in y.values)
        x = suggest_array(trial, "x", 0.0, 1.0, 3)
        of_y = {name: 2 * (value - 0.3) for name, value in zip(y.names, y.values, strict=True)}
        report_hypergradient(trial, {"x": torch.from_numpy(x - 0.8), **of_y})
        return loss + float(((x - 0.8) ** 2).sum() / 2)

    study = optuna.create_study(sampler=GradientSampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert study.best_value < 0.02
    assert {*best_schedules(study)} == {"y"}


def run(weights: Any, learn: bool = True) -> Any:
    """A training on examples of which every third has the wrong label."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    mislabelled = torch.where(torch.arange(30) % 3 == 0, 1 - y, y)

    def loss_fn(model: nn.Module, batch: Any, hypers: Any) -> Tensor:
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (hypers["weights"] * losses).mean()

    torch.manual_seed(0)
    return hypergradient(
        nn.Linear(4, 2),
        loss_fn,
        SGD(1.0),
        lambda step: (x, mislabelled),
        (x, y),
        steps=10,
        hypers={"weights": weights},
        validation_loss_fn=lambda model, batch, _: F.cross_entropy(model(batch[0]), batch[1]),
        learn=learn,
    )


def test_entries_may_be_reported_one_by_one() -> None:
    """As a result names them where rows of the array are schedules."""

    def objective(trial: optuna.Trial) -> float:
        rates = suggest_array(trial, "lr", 1e-3, 1.0, (2, 3), log=True)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        x = torch.randn(16, 2)
        first, second = (Schedule(f"lr_{i}", rates[i]) for i in range(2))
        group = {"params": model[0].parameters(), "lr": first}
        update = ParameterGroups(SGD(second), model, [group])
        result = hypergradient(
            model,
            lambda model, x: ((model(x) - x.prod(1, keepdim=True)) ** 2).mean(),
            update,
            lambda step: x,
            x,
            steps=9,
        )
        report_hypergradient(trial, result)
        stored = read_array_gradient(frozen(trial), "lr")
        expected = [result.gradient[f"lr_{i}_{j}"] for i in range(2) for j in range(3)]
        np.testing.assert_allclose(stored.ravel(), expected, rtol=1e-6)
        return result.loss

    study = optuna.create_study()
    study.optimize(objective, n_trials=8)
    assert study.best_value < 0.9 * study.trials[0].value
    trial = study.ask()
    suggest_array(trial, "lr", 1e-3, 1.0, (2, 3), log=True)
    with pytest.raises(ValueError, match="'lr_0_1' must be a number"):
        report_hypergradient(trial, {"lr_0_1": "x"})
    with pytest.raises(ValueError, match="'lr_0_3' is not a parameter"):
        report_hypergradient(trial, {"lr_0_3": 1.0})
    report_hypergradient(trial, {"lr_1_2": 2.0})
    assert read_array_gradient(frozen(trial), "lr").tolist() == [[0, 0, 0], [0, 0, 2]]


def test_weights_of_examples_are_learned_through_training() -> None:
    def objective(trial: optuna.Trial) -> float:
        result = run(suggest_array(trial, "weights", 0.0, 1.0, 30))
        report_hypergradient(trial, result)
        stored = read_array_gradient(frozen(trial), "weights")
        np.testing.assert_allclose(stored, result.tensors["weights"].numpy(), rtol=1e-6)
        return result.loss

    study = optuna.create_study()
    study.optimize(objective, n_trials=12)
    weights = suggest_array(study.best_trial, "weights", 0.0, 1.0, 30)
    assert weights[::3].max() < 0.1
    assert np.delete(weights, slice(None, None, 3)).mean() > 0.7


def frozen(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.get_trials()[trial.number]


def test_engine_takes_an_array_as_it_takes_a_tensor() -> None:
    weights = np.linspace(0.1, 0.9, 30, dtype=np.float32)
    by_array, by_tensor = run(weights), run(torch.from_numpy(weights))
    assert torch.equal(by_array.tensors["weights"], by_tensor.tensors["weights"])
    with pytest.raises(ValueError, match="weights"):
        run(np.array(["a"] * 30))


def test_one_parameter_stands_for_the_array() -> None:
    study = optuna.create_study()
    study.optimize(bowl, n_trials=3)
    for trial, values in zip(study.trials, arrays(study), strict=True):
        assert trial.params == {"x": pytest.approx(values.mean())}


def test_logarithmic_arrays_move_on_their_scale() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = suggest_array(trial, "x", 1e-4, 1.0, 2, log=True)
        report_hypergradient(trial, {"x": np.array([1.0, -1.0]) / x})
        return float(np.log(x[0] / x[1]))

    study = optuna.create_study()
    study.optimize(objective, n_trials=12)
    found = arrays(study)
    np.testing.assert_allclose(found[0], [1e-2, 1e-2], rtol=1e-6)
    np.testing.assert_allclose(found[1], [10**-2.4, 10**-1.6], rtol=1e-4)
    np.testing.assert_allclose(found[-1], [1e-4, 1.0], rtol=1e-5)
    assert [t.params["x"] for t in study.trials] == pytest.approx([1e-2] * 12, rel=1e-5)


def test_starts_and_shapes() -> None:
    study = optuna.create_study()
    start = np.linspace(0.1, 0.6, 6).reshape(2, 3)
    found = suggest_array(study.ask(), "x", 0.0, 1.0, (2, 3), start=start)
    np.testing.assert_allclose(found, start, rtol=1e-6)
    assert found.dtype == np.float32
    assert suggest_array(study.ask(), "y", 0.0, 1.0, [2], start=1).tolist() == [1.0, 1.0]


def test_an_array_of_another_shape_or_range_is_refused() -> None:
    study = optuna.create_study()
    study.optimize(bowl, n_trials=1)
    for bad in ((0.0, 1.0, 3), (0.0, 2.0, N), (-1.0, 1.0, N)):
        with pytest.raises(ValueError, match="give the new one another name"):
            suggest_array(study.ask(), "x", *bad)
    trial = study.ask()
    trial.suggest_float("z", 0, 1)
    with pytest.raises(ValueError, match="suggested a parameter 'z' before"):
        suggest_array(trial, "z", 0.0, 1.0, 3)


def test_the_same_array_twice_in_a_trial_is_the_same() -> None:
    trial = optuna.create_study().ask()
    first, second = (suggest_array(trial, "x", 0.0, 1.0, 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_fixed_and_enqueued_numbers_are_those_of_all_entries() -> None:
    fixed = FixedTrial({"x": 0.25})
    assert suggest_array(fixed, "x", 0.0, 1.0, 2).tolist() == [0.25, 0.25]
    report_hypergradient(fixed, {"x": np.ones(2)})  # as the objective of a study does
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.75})
    assert suggest_array(study.ask(), "x", 0.0, 1.0, 2).tolist() == [0.75, 0.75]
    study.enqueue_trial({"x": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial = study.ask()
        assert suggest_array(trial, "x", 0.0, 1.0, 2)[0] == np.float32(0.1)
    assert trial.params == {"x": 0.1}
    study.tell(trial, 1.0)
    optuna.create_study().add_trials(study.trials[1:])
    study.enqueue_trial({"x": 2.0})
    with pytest.raises(ValueError, match="enqueued 'x' must lie in"):
        suggest_array(study.ask(), "x", 0.0, 1.0, 2)


def tell(
    study: optuna.Study, gradient: Any, state: TrialState = TrialState.COMPLETE, loss: float = 1.0
) -> Any:
    """Run one trial, with a gradient or None; returns its array."""
    trial = study.ask()
    x = suggest_array(trial, "x", 0.0, 1.0, 2)
    if gradient is not None:
        report_hypergradient(trial, {"x": np.asarray(gradient, dtype=float)})
    study.tell(trial, loss if state == TrialState.COMPLETE else None, state=state)
    return x


@pytest.mark.parametrize(
    ("gradient", "state"),
    [
        ([np.nan, 1.0], TrialState.COMPLETE),
        ([np.inf, np.inf], TrialState.FAIL),
    ],
)
def test_divergence_leads_back_by_half_the_step(gradient: Any, state: TrialState) -> None:
    study = optuna.create_study()
    second = (tell(study, [1.0, -1.0]), tell(study, gradient, state))[1]
    np.testing.assert_allclose(second, [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(tell(study, [1.0, -1.0]), [0.45, 0.55], rtol=1e-6)


def test_one_pruned_trial_is_repeated_and_two_lead_back() -> None:
    study = optuna.create_study()
    tell(study, [1.0, -1.0])
    first, second = (tell(study, None, TrialState.PRUNED) for _ in range(2))
    np.testing.assert_allclose([first, second], [[0.4, 0.6]] * 2, rtol=1e-6)
    np.testing.assert_allclose(tell(study, [1.0, -1.0]), [0.45, 0.55], rtol=1e-6)


def test_a_pruned_trial_with_a_hypergradient_is_no_best_one() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = suggest_array(trial, "x", 0.0, 1.0, 2)
        report_hypergradient(trial, {"x": 2 * (x - 0.9)})
        trial.report(-5.0, 1)  # another quantity
        if trial.number == 1:
            raise optuna.TrialPruned
        return float(((x - 0.9) ** 2).sum())

    study = optuna.create_study()
    study.optimize(objective, n_trials=15)
    assert study.best_value < 1e-2


def test_a_start_that_diverges_is_told() -> None:
    study = optuna.create_study()
    tell(study, [np.nan, 1.0])
    with pytest.warns(UserWarning, match="'x' have diverged at its start; pass another start"):
        tell(study, [np.nan, 1.0])


def test_the_size_of_a_hypergradient_survives_storage() -> None:
    for size in (1e-300, 1e-50, 1.0, 1e200):
        study = optuna.create_study()
        tell(study, [size, -size])
        assert read_array_gradient(study.trials[0], "x").tolist() == [size, -size]
        np.testing.assert_allclose(tell(study, None), [0.4, 0.6], rtol=1e-6)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_two_trials_that_are_no_better_lead_back_to_the_best(direction: str) -> None:
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "minimize" else -1
    for loss in (1.0, 2.0, 3.0):
        tell(study, [1.0, -1.0], loss=sign * loss)
    again = tell(study, [1.0, -1.0], loss=sign * 1.0)  # whether the best one was lucky
    np.testing.assert_array_equal(again, arrays(study)[0])
    np.testing.assert_allclose(tell(study, [1.0, -1.0]), [0.45, 0.55], rtol=1e-6)


@pytest.mark.parametrize(
    ("gradient", "state"),
    [
        (None, TrialState.PRUNED),
        (None, TrialState.COMPLETE),
        ([np.nan, np.nan], TrialState.FAIL),
    ],
)
def test_the_best_array_runs_again_only_once(gradient: Any, state: TrialState) -> None:
    study = optuna.create_study()
    for loss in (1.0, 2.0, 3.0):
        tell(study, [1.0, -1.0], loss=loss)
    tell(study, gradient, state)
    np.testing.assert_array_equal(arrays(study)[3], arrays(study)[0])
    np.testing.assert_allclose(tell(study, [1.0, -1.0]), [0.45, 0.55], rtol=1e-6)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_best_array_that_was_lucky_does_not_hold_the_search_back(direction: str) -> None:
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "minimize" else -1
    for loss in (1.0, 2.5, 2.0):
        third = tell(study, [1.0, -1.0], loss=sign * loss)
    tell(study, [1.0, -1.0], loss=sign * 4.0)  # the first array again, whose mean is now 2.5
    assert recommended(study).number == 2
    assert tell(study, [1.0, -1.0])[0] < third[0]  # the search goes on from the third


def test_a_recommended_trial_has_the_best_array() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("kind", ["a", "b"])
        return bowl(trial)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=12)
    best, steps = study.best_trial, np.diff(arrays(study), axis=0)
    chosen = suggest_array(recommended(study), "x", 0.0, 1.0, N)
    distance = np.abs(chosen - suggest_array(best, "x", 0.0, 1.0, N)).max()
    assert distance <= np.median(np.abs(steps).max(axis=1))
    assert recommended(study).params["kind"] == best.params["kind"]


def test_beside_parameters_that_are_drawn_the_best_trial_is_recommended() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        return bowl(trial) + (np.log10(lr) + 2) ** 2

    study = optuna.create_study(sampler=GradientSampler(seed=2))
    study.optimize(objective, n_trials=15)
    assert recommended(study) == study.best_trial


def test_arrays_that_never_moved_leave_the_best_trial() -> None:
    study = optuna.create_study()
    with pytest.warns(UserWarning, match="has reported a hypergradient"):
        for value in (3.0, 1.0, 2.0):
            trial = study.ask()
            suggest_array(trial, "x", 0.0, 1.0, 2)
            study.tell(trial, value)
    assert recommended(study).number == 1


def test_a_good_loss_amid_divergence_is_not_recommended() -> None:
    study = optuna.create_study()
    for centre, loss in ((0.9, 0.25), (0.5, 0.30), (0.49, 0.32), (0.51, 0.31)):
        study.enqueue_trial({"x": centre})
        tell(study, [1.0, -1.0], loss=loss)
    for centre in (0.88, 0.89, 0.91, 0.92):
        study.enqueue_trial({"x": centre})
        tell(study, [np.nan, np.nan], TrialState.FAIL)
    assert study.best_trial.number == 0 and recommended(study).number in (1, 2, 3)


def test_a_lucky_trial_is_not_recommended() -> None:
    study = optuna.create_study()
    gradient = [1.0, -1.0]
    for value in (1.0, 0.9, 0.3, 0.95, 0.5, 0.45, 0.5):  # the third was lucky
        trial = study.ask()
        suggest_array(trial, "x", 0.0, 1.0, 2, step_size=0.05)
        report_hypergradient(trial, {"x": gradient})
        study.tell(trial, value)
    assert study.best_trial.number == 2 and recommended(study).number >= 4


def test_trials_keep_their_arrays_in_another_study() -> None:
    study, other = (optuna.create_study() for _ in range(2))
    study.optimize(bowl, n_trials=4)
    other.add_trial(optuna.trial.create_trial(value=9.0))
    other.add_trials(study.trials)
    assert other.best_trial.number == study.best_trial.number + 1
    moved, own = (suggest_array(s.best_trial, "x", 0.0, 1.0, N) for s in (other, study))
    np.testing.assert_array_equal(moved, own)
    assert np.shape(visualization.plot_arrays(other).data[0].z) == (N, 4)


def test_names_mean_parameters_before_entries_and_one_array_alone() -> None:
    trial = optuna.create_study().ask()
    suggest_array(trial, "lr", 0.0, 1.0, (2, 2))
    trial.suggest_float("lr_0_1", 0.0, 1.0)
    report_hypergradient(trial, {"lr_0_1": 5.0})
    assert trial.storage.get_trial_system_attrs(trial._trial_id)["hg:gradient"]["values"] == {
        "lr_0_1": 5.0
    }
    trial = optuna.create_study().ask()
    for name, shape in (("lr", (2, 2)), ("lr_0", 2)):
        suggest_array(trial, name, 0.0, 1.0, shape)
    with pytest.raises(ValueError, match="'lr_0_1' is an entry of 'lr' and 'lr_0'; rename"):
        report_hypergradient(trial, {"lr_0_1": 5.0})


def test_large_arrays_of_names_with_colons_are_told_apart() -> None:
    study = optuna.create_study()
    trial = study.ask()
    found = {name: suggest_array(trial, name, 0.0, 1.0, 20_000) for name in ("x", "x:1", "1:x")}
    report_hypergradient(trial, {name: values - 0.2 for name, values in found.items()})
    study.tell(trial, 1.0)
    for name, values in found.items():
        np.testing.assert_array_equal(read_array(study.trials[0], name).values, values)
        np.testing.assert_allclose(read_array_gradient(study.trials[0], name), 0.3, rtol=1e-6)


def test_rows_and_arrays_of_one_entry() -> None:
    trial = optuna.create_study().ask()
    suggest_array(trial, "lr", 0.0, 1.0, (2, 1))
    suggest_array(trial, "decay", 0.0, 1.0, 1)
    lr = [Schedule(f"lr_{i}", [0.1]) for i in range(2)]
    assert [s.names[0] for s in lr] == ["lr_0", "lr_1"]
    report_hypergradient(trial, {"lr_0": 1.0, "lr_1": 2.0, "decay": 3.0})
    assert read_array_gradient(frozen(trial), "lr").tolist() == [[1.0], [2.0]]
    assert read_array_gradient(frozen(trial), "decay").tolist() == [3.0]


def test_tensors_that_are_no_arrays_of_the_trial_are_left_out() -> None:
    trial = optuna.create_study().ask()
    suggest_array(trial, "other", 0.0, 1.0, 2)
    result = run(np.ones(30, np.float32))
    with pytest.raises(ValueError, match="nothing of this trial's arrays"):
        report_hypergradient(trial, result)
    trial = optuna.create_study().ask()
    trial.suggest_float("lr", 0, 1)
    result.gradient["lr"] = 1.0
    report_hypergradient(trial, result)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_kind_are_reported(kind: torch.dtype) -> None:
    trial = optuna.create_study().ask()
    suggest_array(trial, "x", 0.0, 1.0, 2)
    report_hypergradient(trial, {"x": torch.tensor([1.0, 0.5], dtype=kind, requires_grad=True)})
    assert read_array_gradient(frozen(trial), "x").tolist() == [1.0, 0.5]


def test_bounds_hold_in_64_bits() -> None:
    low, high = 0.3, 0.1 + 1e-9 + 0.3
    trial = optuna.create_study().ask()
    for start in (low, high):
        found = suggest_array(trial, f"x{start}", low, high, 2, start=start).astype(float)
        assert low <= found[0] <= high
    below_one = suggest_array(trial, "beta", 0.5, 1 - 1e-9, 1, start=1 - 1e-9)
    assert below_one[0] < 1
    for bad in ((0.0, 1e39), (1.0, 1.0 + 1e-12)):
        with pytest.raises(ValueError, match="32-bit floats do not hold"):
            suggest_array(trial, "y", *bad, 2)


def test_failed_trials_are_repeated_and_count_for_nothing() -> None:
    study = optuna.create_study()
    tell(study, [1.0, -1.0])
    failed = tell(study, None, TrialState.FAIL)
    np.testing.assert_array_equal(tell(study, [1.0, -1.0]), failed)


def test_trials_of_the_same_array_count_as_one() -> None:
    study = optuna.create_study()
    trials = [study.ask() for _ in range(3)]
    first = [suggest_array(trial, "x", 0.0, 1.0, 2) for trial in trials]
    for trial, gradient, loss in zip(
        trials, ([1.0, 3.0], [3.0, 1.0], [np.nan, 1.0]), (1.0, 3.0, -9.0), strict=True
    ):
        report_hypergradient(trial, {"x": np.array(gradient)})
        study.tell(trial, loss)
    np.testing.assert_array_equal(first[0], first[2])
    for loss in (2.5, 2.1):  # worse than the mean, 2
        np.testing.assert_allclose(tell(study, [1.0, 1.0], loss=loss)[0], 0.4, atol=0.11)
    np.testing.assert_allclose(tell(study, [1.0, 1.0]), [0.45, 0.45], rtol=1e-6)


def test_a_retried_trial_has_the_array_of_the_failed_one() -> None:
    study = optuna.create_study()
    tell(study, [1.0, -1.0])
    trial = study.ask()
    failed = suggest_array(trial, "x", 0.0, 1.0, 2)
    report_hypergradient(trial, {"x": np.array([5.0, 5.0])})
    name = "RetryHeartbeatStaleTrialCallback"  # since Optuna 4.9
    retrying = getattr(storages, name, None) or storages.RetryFailedTrialCallback
    study.tell(trial, state=TrialState.FAIL)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        retry_failed = retrying()
    retry_failed(study, study.trials[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retried = study.ask()
        np.testing.assert_array_equal(suggest_array(retried, "x", 0.0, 1.0, 2), failed)
    report_hypergradient(retried, {"x": np.array([1.0, -1.0])})
    study.tell(retried, 1.0)
    assert not np.array_equal(tell(study, [1.0, 1.0]), failed)


def test_a_study_whose_trials_report_nothing_is_told() -> None:
    study = optuna.create_study()
    tell(study, None)
    with pytest.warns(UserWarning, match="none has reported a hypergradient of 'x'"):
        tell(study, None)


def test_reports_are_checked() -> None:
    trial = optuna.create_study().ask()
    suggest_array(trial, "x", 0.0, 1.0, 2)
    trial.suggest_float("y", 0, 1)
    for bad in (1.0, np.ones(3), np.ones((2, 1)), ["a", "b"], None, np.ones(2, complex)):
        with pytest.raises(ValueError, match="'x' must have the array's shape"):
            report_hypergradient(trial, {"x": bad, "y": 1.0})
    with pytest.raises(ValueError, match="'z' is not a parameter"):
        report_hypergradient(trial, {"x": np.ones(2), "z": 1.0})
    with pytest.raises(ValueError, match="'x' is an array"):
        report_hypergradient(trial, {"x": np.ones(2)}, constraint="c")
    report_hypergradient(trial, {"x": np.array([3.0, 0.0]), "y": 4.0})
    assert trial.user_attrs["hg:gradient_norm"] == 5.0
    for again in ({"x": np.ones(2)}, {"y": 1.0}):
        with pytest.raises(ValueError, match="already reported"):
            report_hypergradient(trial, again)


@pytest.mark.parametrize(
    ("field", "value"),
    [("values", "????"), ("values", "AAAA"), ("shape", [0]), ("pieces", 10**9), ("low", "x")],
)
def test_damaged_arrays_are_named(field: str, value: Any) -> None:
    study = optuna.create_study()
    study.optimize(bowl, n_trials=1)
    trial = study.trials[0]
    stored = dict(trial.system_attrs["hg:array:x"])
    trial.system_attrs["hg:array:x"] = {**stored, field: value}
    with pytest.raises(StoredDataError, match="trial 0: hg:array:x is damaged"):
        read_array(trial, "x")


@pytest.mark.parametrize("kind", databases.KINDS)
def test_large_arrays_survive_every_storage(kind: str) -> None:
    target = np.random.default_rng(0).random(20_000)
    with servers.fresh(kind) as address:
        storage = databases.connect(address)
        study = optuna.create_study(storage=storage)
        study.optimize(lambda trial: bowl(trial, target), n_trials=3)
        databases.disconnect(storage)
        storage = databases.connect(address)
        again = optuna.load_study(study_name=study.study_name, storage=storage)
        first, second, third = arrays(again)
        assert first.tolist() == [0.5] * 20_000
        assert 0 < abs(second - first).max() <= 0.2
        assert np.array_equal(second < first, target < 0.5)
        assert float(((third - target) ** 2).mean()) == again.trials[2].value
        reported = read_array_gradient(again.trials[2], "x")
        np.testing.assert_allclose(reported, 2 * (third - target), rtol=1e-6)
        sizes = [len(str(v)) for t in again.trials for v in t.system_attrs.values()]
        assert max(sizes) < 33_000
        databases.disconnect(storage)
