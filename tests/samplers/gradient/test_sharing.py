"""``windows="auto"``: fine windows that move together, in a search that any process can replay."""

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
from optuna_hypergrad.algorithms.sharing import shared_windows
from optuna_hypergrad.reports.claims import Rule
from optuna_hypergrad.samplers.gradient.chains import ancestry
from optuna_hypergrad.samplers.gradient.search import Search, decisions
from optuna_hypergrad.samplers.gradient.table import Table
from optuna_hypergrad.suggest import FINE_WINDOWS as N
from samplers.studies import create, points

pytestmark = pytest.mark.usefixtures("sign_descent")

TARGET = np.repeat([0.6, -0.4], N // 2)
NAMES = [f"lr_{i}" for i in range(N)]


def objective(trial: optuna.Trial, windows: object = "auto", noise: float = 0.1) -> float:
    """A quadratic around two levels; every window's hypergradient has noise of its own."""
    values = suggest_schedule(trial, "lr", -1, 1, windows=windows).values
    error = np.array(values) - TARGET
    blur = noise * np.random.default_rng(trial.number).normal(size=N)
    report_hypergradient(trial, dict(zip(NAMES, 2 * error + blur, strict=True)))
    return float(error @ error)


def finish(study: optuna.Study, gradient: np.ndarray, value: float = 1.0, **options: bool) -> None:
    trial = study.ask()
    schedule = suggest_schedule(
        trial, "lr", *((1e-4, 1) if options else (-1, 1)), windows="auto", **options
    )
    report_hypergradient(trial, dict(zip(schedule.names, gradient, strict=True)))
    study.tell(trial, value)


def test_neighbours_that_noise_sets_apart_move_together() -> None:
    astray: dict[object, list[float]] = {"auto": [], N: []}
    for seed in range(6):
        gradient = 2.0 + 3.0 * np.random.default_rng(seed).normal(size=N)
        for windows, shares in astray.items():
            study = create()
            for _ in range(2):
                trial = study.ask()
                names = suggest_schedule(trial, "lr", -1, 1, windows=windows).names
                report_hypergradient(trial, dict(zip(names, gradient, strict=True)))
                study.tell(trial, 1.0)
            shares.append(np.mean(np.array([*points(study)[1].values()]) != -0.1))
        assert astray[N][-1] == np.mean(gradient < 0)
    assert np.mean(astray[N]) > 0.2 and np.mean(astray["auto"]) < 0.1


def test_windows_part_where_signs_are_settled_and_all_can_see_it() -> None:
    study = create()
    gradient = np.repeat([1.0, -2.0], [N // 4, 3 * N // 4])
    gradient += 0.1 * np.random.default_rng(0).normal(size=N)
    finish(study, gradient)
    widths = study.sampler.chains(study)[0].windows["lr"]
    assert widths == shared_windows(gradient) and sum(widths) == N
    assert N // 4 in np.cumsum(widths)
    finish(study, gradient)
    assert [*points(study)[1].values()] == [*np.repeat([-0.1, 0.1], [N // 4, 3 * N // 4])]
    assert study.trials[1].user_attrs["hg:windows"] == "lr " + "+".join(map(str, widths))
    assert "hg:windows" not in study.trials[0].user_attrs


def test_sharing_finds_under_noise_what_fine_windows_do_not() -> None:
    auto, fine = create(GradientSampler(safeguard=None)), create(GradientSampler(safeguard=None))
    auto.optimize(lambda trial: objective(trial, noise=3.0), n_trials=25)
    fine.optimize(lambda trial: objective(trial, windows=N, noise=3.0), n_trials=25)
    assert auto.best_value < fine.best_value / 2


def test_another_sampler_goes_on_where_the_first_stopped() -> None:
    whole, halved = create(), create()
    whole.optimize(objective, n_trials=12)
    for _ in range(6):
        halved.sampler = GradientSampler(seed=0)
        halved.optimize(objective, n_trials=2)
    assert points(whole) == points(halved)
    assert whole.trials[-1].user_attrs["hg:windows"] == halved.trials[-1].user_attrs["hg:windows"]


@pytest.mark.filterwarnings("ignore:.*twice in one trial")
@pytest.mark.parametrize("seed", range(3))
def test_workers_in_any_order_leave_a_path_that_can_be_replayed(seed: int) -> None:
    study, rng, running = create(GradientSampler(n_replicates=2)), np.random.default_rng(seed), []
    for _ in range(30):
        if len(running) < 3:
            running.append(study.ask())
            suggest_schedule(running[-1], "lr", -1, 1, windows="auto")
        else:
            trial = running.pop(rng.integers(3))
            study.tell(trial, objective(trial))
    rule = Rule(safeguard=0.05, start={}, step_size={}, n_replicates=2, tolerance=1e-3)
    table = Table(rule, maximize=False)
    table.read(study.get_trials(deepcopy=False))
    assert len(table.steps[0]) > 4
    for one in (one for claimed in table.steps[0] for one in claimed):
        path = ancestry(table.steps[0], one.claim)
        search = decisions(path, rule, False)[-1].after if path else Search.over({})
        assert one.claim.windows == search.windows
        for name, value in search.point().items():
            assert one.trial.params[name] == pytest.approx(value, abs=1e-12)


def test_windows_of_a_log_range_share_the_derivative_by_the_logarithm() -> None:
    study = create()
    values = np.repeat([0.001, 0.1], N // 2)
    study.enqueue_trial(dict(zip(NAMES, values.tolist(), strict=True)))
    noise = 1 + np.random.default_rng(0).normal(size=N)
    finish(study, np.repeat([1.0, -0.5], N // 2) * noise, log=True)  # the sum is positive
    assert study.sampler.chains(study)[0].windows["lr"] == shared_windows(
        np.repeat([0.001, -0.05], N // 2) * noise
    )
    finish(study, noise, log=True)
    last = np.array([*points(study)[1].values()])
    assert (last[N // 2 :] > 0.1).all()


def test_entries_that_say_nothing_leave_the_rest_to_decide() -> None:
    study = create(GradientSampler(safeguard=None))
    gradient = 1 + 0.1 * np.random.default_rng(0).normal(size=N)
    gradient[5] = np.nan
    finish(study, gradient)
    finish(study, np.full(N, np.nan))
    assert {*points(study)[1].values()} == {-0.1}
    finish(study, gradient)
    assert {*points(study)[2].values()} == {-0.1}


def test_several_schedules_are_cut_each_by_itself() -> None:
    study = create()
    trial = study.ask()
    lr = suggest_schedule(trial, "lr", -1, 1, windows="auto", form="linear")
    decay = suggest_schedule(trial, "decay", 0, 1, windows="auto")
    momentum = suggest_schedule(trial, "momentum", 0, 1)
    edges = np.sign(np.arange(N) - N // 2 + 0.5) + np.tile([0.1, -0.1], N // 2)
    gradient = dict.fromkeys(lr.names, 1.0) | dict(zip(decay.names, edges, strict=True))
    report_hypergradient(trial, gradient | dict.fromkeys(momentum.names, -1.0))
    study.tell(trial, 1.0)
    windows = study.sampler.chains(study)[0].windows
    assert windows == {"lr": (N + 1,), "decay": (N // 2, N // 2)}
    study.ask()
    assert study.trials[1].user_attrs["hg:windows"] == f"lr {N + 1}, decay {N // 2}+{N // 2}"


def test_other_samplers_and_fixed_values_take_it_for_a_fine_schedule() -> None:
    study = create(optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    best = study.best_trial
    for trial in (FixedTrial(best.params), best):
        assert suggest_schedule(trial, "lr", -1, 1, windows="auto").params == best.params
    assert study.best_trial.user_attrs == best.user_attrs
