"""MemberHandle: restoring, checking, saving, removing checkpoints, teaching."""

import copy
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from torch import nn

from optuna_hypergrad import PopulationSampler, autodiff, members, report_hypergradient, students
from optuna_hypergrad.checkpoints import CheckpointError
from optuna_hypergrad.reports.segments import read_checkpoint, read_segment, read_teacher

SGD = torch.optim.SGD


@pytest.fixture
def store(tmp_path: Path) -> FileSystemArtifactStore:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return FileSystemArtifactStore(folder)


def files(store: FileSystemArtifactStore) -> list[Path]:
    return sorted(Path(store._base_path).iterdir())


def create(**arguments: Any) -> optuna.Study:
    arguments = {"seed": 0, "population_size": 2, **arguments}
    return optuna.create_study(sampler=PopulationSampler(**arguments))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    for _ in range(3):
        loss = (nn.functional.dropout(model(torch.ones(4, 2)), 0.5) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def segment(trial: optuna.Trial, store: FileSystemArtifactStore, **begin: Any) -> float:
    """A usual objective."""
    member = members.begin(trial, store, **begin)
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    torch.manual_seed(trial.number)
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9)
    steps = member.restore(model=model, optimizer=optimizer).get("steps", 0)
    loss = train(model, optimizer)
    member.save(model=model, optimizer=optimizer, steps=steps + 3)
    trial.set_user_attr("steps", steps + 3)
    return loss


def weights_of(study: optuna.Study, number: int, store: FileSystemArtifactStore) -> Any:
    from optuna_hypergrad.checkpoints import download

    checkpoint = read_checkpoint(study.trials[number])
    assert checkpoint is not None
    return download(store, checkpoint)["parts"]


def test_a_member_continues_as_if_it_had_never_stopped(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1, refine=False)
    study.optimize(lambda trial: segment(trial, store), n_trials=4)
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=study.trials[0].params["lr"], momentum=0.9)
    for _ in range(4):
        train(model, optimizer)
    found = weights_of(study, 3, store)
    assert torch.equal(found["model"]["weight"], model.weight)
    assert found["steps"] == 12
    buffer = optimizer.state[model.weight]["momentum_buffer"]
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], buffer)


def test_the_handle_knows_its_place_and_parent(store: FileSystemArtifactStore) -> None:
    seen = []

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        seen.append((member.number, member.generation, member.parent, member.is_clone))
        member.save(nothing=None)
        return float(trial.number % 2)

    study = create(burn_in=0)
    study.optimize(objective, n_trials=4)
    assert seen == [(0, 0, None, False), (1, 0, None, False), (0, 1, 0, False), (1, 1, 0, True)]


def test_a_mutated_clone_keeps_its_values_and_gets_the_parents_weights(
    store: FileSystemArtifactStore,
) -> None:
    used = {}

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        model = nn.Linear(2, 1)
        optimizer = SGD(model.parameters(), lr=lr, momentum=0.9)
        member.restore(model=model, optimizer=optimizer)
        used[trial.number] = optimizer.param_groups[0]["lr"], model.weight.detach().clone()
        train(model, optimizer)
        member.save(model=model, optimizer=optimizer)
        return float(trial.number % 2)

    study = create(burn_in=0, mutation="perturb", resample_probability=0.0)
    study.optimize(objective, n_trials=4)
    lr, weight = used[3]
    assert lr == study.trials[3].params["lr"] != study.trials[0].params["lr"]
    assert torch.equal(weight, weights_of(study, 0, store)["model"]["weight"])


def test_an_optimizer_that_uses_other_values_is_refused(store: FileSystemArtifactStore) -> None:
    member = members.begin(trial := create().ask(), store)
    lr, beta = trial.suggest_float("lr", 0.1, 1), trial.suggest_float("beta", 0.1, 0.9)
    parameters = nn.Linear(2, 1).parameters
    with pytest.raises(ValueError, match=r"optimizer uses lr=0.01, but the trial suggests lr=0\."):
        member.restore(optimizer=SGD(parameters(), lr=0.01))
    member.restore(optimizer=SGD(parameters(), lr=0.01), uses={})
    adam = torch.optim.Adam(parameters(), lr=lr, betas=(beta, 0.99))
    member.restore(optimizer=adam, uses={"lr": "lr", "beta": "betas.0"})
    with pytest.raises(ValueError, match=r"uses betas.1=0.99, but the trial suggests beta="):
        member.restore(optimizer=adam, uses={"beta": "betas.1"})
    with pytest.raises(ValueError, match="'momentum' is not an option of optimizer"):
        member.restore(optimizer=adam, uses={"beta": "momentum"})
    with pytest.raises(ValueError, match="the trial has not suggested 'decay'"):
        member.restore(optimizer=adam, uses={"decay": "weight_decay"})


def test_hypertraining_is_set_to_what_the_trial_suggests(store: FileSystemArtifactStore) -> None:
    from optuna_hypergrad.hypernet import Bounded, Conditioning, HyperTraining, convert

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        rate = trial.suggest_float("rate", 0.0, 0.9)
        student = convert(nn.Linear(2, 1), Conditioning({"rate": Bounded(0, 0.9)}, {"rate": rate}))
        loss_fn = lambda model, x: model(x).square().mean()  # noqa: E731
        training = HyperTraining(student, loss_fn, SGD(student.parameters(), lr=0.1), lr=0.1)
        member.restore(training=training)
        assert training.values["rate"] == pytest.approx(min(max(rate, 9e-4), 0.8991), rel=1e-5)
        for _ in range(4):
            training.step(torch.ones(3, 2), torch.ones(3, 2))
        report_hypergradient(trial, training.hypergradient(torch.ones(3, 2)))
        member.refined(training.values)
        member.save(training=training)
        return float(trial.number % 2)

    study = create(burn_in=0)
    study.optimize(objective, n_trials=12)
    refined = study.trials[8].system_attrs["hg:refined"]["values"]["rate"]
    assert study.trials[10].params["rate"] == refined


def test_a_clone_does_not_repeat_its_parents_random_numbers(store: FileSystemArtifactStore) -> None:
    drawn = {}

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        torch.manual_seed(trial.number)
        member.restore()
        drawn[trial.number] = float(torch.rand(()))
        member.save(nothing=None)
        return float(trial.number % 2)

    create(burn_in=0).optimize(objective, n_trials=4)
    torch.manual_seed(0)
    assert [drawn[0], drawn[2]] == torch.rand(2).tolist()  # 2 continues 0
    torch.manual_seed(3)
    assert drawn[3] == float(torch.rand(()))  # 3 is a clone


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_falls_back_on_the_one_before(
    store: FileSystemArtifactStore, damage: str
) -> None:
    study = create(population_size=1)
    study.optimize(lambda trial: segment(trial, store), n_trials=3)
    checkpoint = read_checkpoint(study.trials[2])
    assert checkpoint is not None
    path = Path(store._base_path) / checkpoint.artifact
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    path.write_bytes(data[:100] if damage == "truncate" else data)
    if damage == "remove":
        path.unlink()
    with pytest.warns(UserWarning, match="trial 3 restores the checkpoint of trial 1, an older"):
        study.optimize(lambda trial: segment(trial, store), n_trials=1)
    assert study.trials[3].user_attrs["steps"] == 9
    assert study.trials[3].user_attrs["hg:restored"] == 1


def test_where_no_checkpoint_is_left_the_error_says_why(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    study.optimize(lambda trial: segment(trial, store), n_trials=2)
    for file in files(store):
        file.write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"trial 2 finds no .*trial 1: .*bytes.*trial 0: "):
        study.optimize(lambda trial: segment(trial, store), n_trials=1)
    assert study.trials[2].state == optuna.trial.TrialState.FAIL


def test_a_parent_without_a_checkpoint_is_named(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-3, 1e-1, log=True), n_trials=1)
    with pytest.raises(CheckpointError, match=r"trial 0: it saved none; call member\.save"):
        study.optimize(lambda trial: segment(trial, store), n_trials=1)


def test_parts_must_be_those_that_were_saved(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    study.optimize(lambda trial: segment(trial, store), n_trials=1)
    member = members.begin(study.ask(), store)
    with pytest.raises(CheckpointError, match="no part 'net' among those saved: model, optimizer"):
        member.restore(net=nn.Linear(2, 1))
    with pytest.raises(ValueError, match="must have load_state_dict, got 3"):
        member.restore(steps=3)


def test_values_of_many_kinds_come_back(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    kinds = {"tuple": (1, None), "nan": float("nan"), "array": np.arange(3), "nested": {0: [True]}}
    trial = study.ask()
    members.begin(trial, store).save(**kinds)
    study.tell(trial, 1.0)
    state = members.begin(study.ask(), store).restore()
    assert state["tuple"] == (1, None) and state["nested"] == {0: [True]}
    assert np.isnan(state["nan"]) and np.array_equal(state["array"], np.arange(3))


class Metrics(NamedTuple):
    loss: float
    accuracy: float


def test_what_metrics_and_counters_are_made_of_comes_back(store: FileSystemArtifactStore) -> None:
    """numpy's numbers and the containers of ``collections``, as Python's own."""

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        restored = member.restore()
        best = min(np.float64(restored.get("best", np.inf)), np.float64(1 / (trial.number + 1)))
        seen = defaultdict(int, restored.get("seen", {}))
        seen[np.int64(trial.number)] += 1
        recent = deque(restored.get("recent", ()), maxlen=2)
        recent.append(Metrics(best, np.float32(0.5)))
        member.save(best=best, seen=seen, recent=recent, better=np.bool_(True))
        return best

    study = create(population_size=1)
    study.optimize(objective, n_trials=3)
    left = members.begin(study.ask(), store).restore()
    assert left == {
        "best": 1 / 3,
        "seen": {0: 1, 1: 1, 2: 1},
        "recent": [(1 / 2, 0.5), (1 / 3, 0.5)],
        "better": True,
    }
    assert [type(left["best"]), type(left["better"])] == [float, bool]
    assert [type(key) for key in left["seen"]] == [int] * 3


def test_what_cannot_be_saved_is_named_before_the_training(store: FileSystemArtifactStore) -> None:
    class Unstorable(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"since": Decimal(1)}

        def set_extra_state(self, state: Any) -> None: ...

    member = members.begin(create().ask(), store)
    reason = "since: cannot store <class 'decimal.Decimal'>; convert it to a number"
    with pytest.raises(TypeError, match=rf"^model\._extra_state\.{reason}"):
        member.restore(model=Unstorable(2, 1))
    with pytest.raises(TypeError, match=rf"^model\._extra_state\.{reason}"):
        member.check(model=Unstorable(2, 1), best=0.5)
    member.check(model=nn.Linear(2, 1), best=np.float64(0.5))
    assert not files(store)


def test_a_value_that_cannot_be_saved_costs_no_checkpoint(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    member = members.begin(trial := study.ask(), store)
    member.save(steps=3)
    with pytest.raises(TypeError, match=r"^best\.loss: cannot store <class 'decimal.Decimal'>"):
        member.save(steps=6, best={"loss": Decimal(1)})
    assert len(files(store)) == 1
    study.tell(trial, 1.0)
    assert members.begin(study.ask(), store).restore() == {"steps": 3}


class Walked(Mapping[str, int]):
    """A mapping that counts how often it is walked through."""

    def __init__(self) -> None:
        self.walks = 0

    def __getitem__(self, key: str) -> int:
        return {"steps": 3}[key]

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return iter(["steps"])


def test_saving_walks_through_the_parts_once(store: FileSystemArtifactStore) -> None:
    study, progress = create(), Walked()
    members.begin(study.ask(), store).save(progress=progress)
    assert progress.walks == 1


@pytest.mark.parametrize("how", ["check", "save", "restore"])
def test_a_class_in_place_of_an_instance_is_named(store: FileSystemArtifactStore, how: str) -> None:
    member = members.begin(create().ask(), store)
    with pytest.raises(TypeError, match=r"^model: expected an instance, got the class Linear\.$"):
        getattr(member, how)(model=nn.Linear)
    assert not files(store)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_engine_run_continues_as_if_it_had_never_stopped(
    store: FileSystemArtifactStore, kind: str
) -> None:
    x = torch.randn(32, 2)
    data = [(part, part.sum(1, keepdim=True)) for part in x.split(8)]

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        model = nn.Linear(2, 1)
        if trial.number == 0:
            model.load_state_dict(start.state_dict())
        state = member.restore(model=model).get("state")
        made = {"sgd": autodiff.SGD(0.05, momentum=0.9), "adam": autodiff.Adam(0.05)}[kind]
        result = autodiff.hypergradient(
            model, loss_fn, made, data, data[0], steps=4, learn=(), state=state
        )
        member.save(model=model, state=result.state)
        return result.loss

    start = nn.Linear(2, 1)
    study = create(population_size=1)
    study.optimize(objective, n_trials=3)
    expected = copy.deepcopy(start)
    optimizer: torch.optim.Optimizer = {
        "sgd": SGD(expected.parameters(), lr=0.05, momentum=0.9),
        "adam": torch.optim.Adam(expected.parameters(), lr=0.05),
    }[kind]
    for batch in data * 3:
        optimizer.zero_grad()
        loss_fn(expected, batch).backward()
        optimizer.step()
    found = weights_of(study, 2, store)["model"]
    assert torch.allclose(found["weight"], expected.weight, rtol=1e-5)
    assert torch.allclose(found["bias"], expected.bias, rtol=1e-5)


@pytest.mark.parametrize("how", ["int", "float", "category"])
def test_a_width_that_clones_keep_fits_every_checkpoint(
    store: FileSystemArtifactStore, how: str
) -> None:
    """No trial fails, though clones of all widths are mutated."""

    def width(trial: optuna.Trial) -> int:
        if how == "int":
            return trial.suggest_int("width", 4, 64)
        if how == "float":
            return round(trial.suggest_float("width", 4, 64))
        return int(trial.suggest_categorical("width", [4, 8, 16, 32]))

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        hidden = width(trial)
        model = nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 1))
        optimizer = SGD(model.parameters(), lr=lr)
        member.restore(model=model, optimizer=optimizer)
        loss = train(model, optimizer)
        member.save(model=model, optimizer=optimizer)
        return loss

    fixed = ["width"] if how == "float" else []
    study = create(population_size=5, burn_in=0, fixed=fixed)
    study.optimize(objective, n_trials=40)
    assert len({trial.params["width"] for trial in study.trials}) > 1
    assert sum(one.is_clone for one in students(study)) > 5


def test_refined_values_of_fixed_parameters_are_ignored_with_a_warning(
    store: FileSystemArtifactStore,
) -> None:
    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        scale, lr = trial.suggest_float("scale", 0, 1), trial.suggest_float("lr", 0, 1)
        with pytest.warns(UserWarning, match="refined: 'scale' is fixed in the sampler"):
            member.refined({"scale": scale / 2, "lr": lr / 2})
        member.save()
        return scale

    study = create(population_size=1, fixed=["scale"])
    study.optimize(objective, n_trials=2)
    first, second = (trial.params for trial in study.trials)
    assert second == {"scale": first["scale"], "lr": first["lr"] / 2}


def test_unneeded_checkpoints_are_removed_and_the_best_is_kept(
    store: FileSystemArtifactStore,
) -> None:
    study = create(population_size=3)

    def objective(trial: optuna.Trial) -> float:
        segment(trial, store)
        return float(abs(trial.number - 7))

    study.optimize(objective, n_trials=60)
    assert len(files(store)) <= 2 * 3 + 3 + 1
    best = read_checkpoint(study.best_trial)
    assert best is not None and best.artifact in {file.name for file in files(store)}
    assert study.best_trial.number == 7


def test_keep_all_removes_nothing(store: FileSystemArtifactStore) -> None:
    create().optimize(lambda trial: segment(trial, store, keep="all"), n_trials=20)
    assert len(files(store)) == 20
    with pytest.raises(ValueError, match="keep must be 'living' or 'all', got 'none'"):
        members.begin(create().ask(), store, keep="none")  # type: ignore[arg-type]


def test_saving_twice_leaves_one_and_other_artifacts_stay(
    store: FileSystemArtifactStore, tmp_path: Path
) -> None:
    study = create()
    trial = study.ask()
    (tmp_path / "curve.csv").write_text("1,2")
    upload_artifact(
        artifact_store=store, file_path=str(tmp_path / "curve.csv"), study_or_trial=trial
    )
    member = members.begin(trial, store)
    member.save(steps=1)
    member.save(steps=2)
    assert len(files(store)) == 2
    study.tell(trial, 0.0)
    assert weights_of(study, 0, store) == {"steps": 2}


def test_what_crashed_between_upload_and_report_is_removed(store: FileSystemArtifactStore) -> None:
    from optuna_hypergrad import checkpoints

    study = create(population_size=1)
    trial = study.ask()
    checkpoints.upload(trial, store, {"parts": {}, "rng": {}})
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len(files(store)) == 1
    study.optimize(lambda trial: segment(trial, store), n_trials=1)
    assert [file.name for file in files(store)] == [read_checkpoint(study.trials[1]).artifact]


def test_with_another_sampler_no_trial_has_a_parent(store: FileSystemArtifactStore) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: segment(trial, store), n_trials=3)
    assert [trial.user_attrs["steps"] for trial in study.trials] == [3, 3, 3]


def bowl(trial: optuna.Trial, store: FileSystemArtifactStore, steps: int, calls: list) -> float:
    def hypergradient(params: dict[str, float]) -> dict[str, float]:
        calls.append((trial.number, params))
        return {name: 2 * (value - 0.3) for name, value in params.items()}

    members.begin(trial, store).teach(hypergradient, steps=steps)
    params = {name: trial.suggest_float(name, -1, 1) for name in "xy"}
    report_hypergradient(trial, {name: 2 * (value - 0.3) for name, value in params.items()})
    return sum((value - 0.3) ** 2 for value in params.values()) + 0.1 * (trial.number % 2)


def test_a_teacher_trained_in_the_trial_mutates_with_what_it_learned(
    store: FileSystemArtifactStore,
) -> None:
    calls: list[tuple[int, dict[str, float]]] = []
    study = create(mutation="teacher", burn_in=0, resample_probability=0.0, refine=False)
    study.enqueue_trial({"x": 0.8, "y": -0.8})
    study.optimize(lambda trial: bowl(trial, store, 5, calls), n_trials=4)
    clone = next(n for n, t in enumerate(study.trials) if t.system_attrs["hg:segment"]["queried"])
    assert [number for number, _ in calls] == [clone] * 5
    own = study.trials[clone]
    segment = read_segment(clone, own.system_attrs)
    taught = read_teacher(clone, own.system_attrs)
    assert segment is not None and taught is not None and taught.teacher.steps == 5
    assert own.params == {name: segment.values[name] for name in "xy"}
    distance = [abs(value - 0.3) for _, params in calls for value in params.values()]
    assert distance[-1] < distance[1] and distance[-2] < distance[0]
    study.optimize(lambda trial: bowl(trial, store, 5, calls), n_trials=20)
    later = [read_teacher(t.number, t.system_attrs) for t in study.trials]
    counts = [one.teacher.steps for one in later if one is not None]
    assert counts == sorted(counts) and counts[-1] > 15  # the population's teacher continues


def test_teaching_comes_before_suggesting(store: FileSystemArtifactStore) -> None:
    study = create(mutation="teacher", burn_in=0, resample_probability=0.0)
    study.optimize(lambda trial: bowl(trial, store, 1, []), n_trials=3)
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    with pytest.raises(
        RuntimeError, match="before the first suggestion; this trial has suggested x"
    ):
        members.begin(trial, store).teach(lambda params: {}, steps=1)


def schedulers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    schedule = torch.optim.lr_scheduler
    warmup = schedule.LinearLR(optimizer, 0.1, total_iters=3)
    return {
        "lambda": lambda: schedule.LambdaLR(optimizer, lambda step: 0.9**step),
        "step": lambda: schedule.StepLR(optimizer, 2, 0.5),
        "milestones": lambda: schedule.MultiStepLR(optimizer, [2, 4], 0.5),
        "cosine": lambda: schedule.CosineAnnealingLR(optimizer, 50),
        "restarts": lambda: schedule.CosineAnnealingWarmRestarts(optimizer, 5),
        "warm-up": lambda: warmup,
        "sequence": lambda: schedule.SequentialLR(
            optimizer, [warmup, schedule.ExponentialLR(optimizer, 0.9)], milestones=[3]
        ),
    }


@pytest.mark.parametrize("kind", ["lambda", "step", "milestones", "cosine", "restarts"])
def test_a_scheduler_continues_from_its_step_at_the_suggested_rate(
    store: FileSystemArtifactStore, kind: str
) -> None:
    used = []

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = SGD(nn.Linear(2, 1).parameters(), lr=lr)
        scheduler = schedulers(optimizer)[kind]()
        for group in optimizer.param_groups:  # other schedulers were constructed, too
            group["lr"] = lr
        member.restore(optimizer=optimizer, scheduler=scheduler)
        rates = []
        for _ in range(3):
            rates.append(optimizer.param_groups[0]["lr"] / lr)
            optimizer.step()
            scheduler.step()
        used.append(rates)
        member.save(optimizer=optimizer, scheduler=scheduler)
        return float(trial.number % 2)

    study = create(burn_in=0, mutation="perturb")
    study.optimize(objective, n_trials=6)
    plain = SGD(nn.Linear(2, 1).parameters(), lr=1.0)
    scheduler = schedulers(plain)[kind]()
    plain.param_groups[0]["lr"] = 1.0
    expected = []
    for _ in range(9):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        scheduler.step()
    assert used[0] + used[2] + used[4] == pytest.approx(expected)
    clones = [n for n, t in enumerate(study.trials) if t.system_attrs["hg:segment"]["age"] == 0]
    for number in clones[2:]:  # the first two start
        generation = number // 2
        assert used[number] == pytest.approx(expected[3 * generation : 3 * generation + 3])


def test_a_warm_up_and_a_sequence_of_schedulers_pass_the_check(
    store: FileSystemArtifactStore,
) -> None:
    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = SGD(nn.Linear(2, 1).parameters(), lr=lr)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [3])
        member.restore(optimizer=optimizer, scheduler=scheduler)
        for _ in range(4):
            optimizer.step()
            scheduler.step()
        last = optimizer.param_groups[0]["lr"] / lr
        trial.set_user_attr("last", last)
        member.save(optimizer=optimizer, scheduler=scheduler)
        return float(trial.number % 2)

    study = create(burn_in=0, mutation="perturb")
    study.optimize(objective, n_trials=6)
    assert [t.user_attrs["last"] for t in study.trials] == pytest.approx(
        [0.9, 0.9, 0.9**5, 0.9**5, 0.9**9, 0.9**9]
    )


def test_groups_and_optimizers_are_checked_as_uses_says(
    store: FileSystemArtifactStore,
) -> None:
    member = members.begin(trial := create().ask(), store)
    lr, critic_lr = trial.suggest_float("lr", 0.1, 1), trial.suggest_float("critic_lr", 0.1, 1)
    fused = trial.suggest_categorical("fused", [None, "no"])
    body, head = nn.Linear(2, 1), nn.Linear(2, 1)
    groups = [{"params": body.parameters()}, {"params": head.parameters(), "lr": 0.1 * lr}]
    actor, critic = SGD(groups, lr=lr), SGD(nn.Linear(2, 1).parameters(), lr=critic_lr)
    uses = {"lr": "actor.lr", "critic_lr": "critic.lr"}
    member.restore(actor=actor, critic=critic, uses=uses)
    member.restore(actor=actor, critic=critic, uses={"lr": "actor.0.lr"})
    with pytest.raises(ValueError, match=r"uses actor.1.lr=.*, but the trial suggests lr="):
        member.restore(actor=actor, critic=critic, uses={"lr": "actor.1.lr"})
    if fused is None:
        member.restore(actor=actor, critic=critic)
    critic.param_groups[0]["lr"] = 0.05
    with pytest.raises(ValueError, match=r"uses critic.lr=0.05, but the trial suggests critic_lr="):
        member.restore(actor=actor, critic=critic, uses=uses)


def test_progress_on_a_grid_is_not_set_back(store: FileSystemArtifactStore) -> None:
    class Part:
        def __init__(self, values: dict[str, float]) -> None:
            self.values, self.given = values, dict[str, float]()

        def state_dict(self) -> dict[str, float]:
            return {}

        def load_state_dict(self, state: Any) -> None:
            pass

        def set_values(self, values: dict[str, float]) -> None:
            self.given = values

    member = members.begin(trial := create().ask(), store)
    trial.suggest_float("rate", 0.0, 1.0, step=0.25)
    trial.suggest_float("other", 0.5, 0.6)
    part = Part({"rate": trial.params["rate"] * 0.99 + 0.003, "other": 0.1})
    member.restore(part=part)
    assert part.given == {"other": trial.params["other"]}


def test_a_store_that_refuses_to_remove_costs_no_segment(tmp_path: Path) -> None:
    class Kept(FileSystemArtifactStore):
        def remove(self, artifact_id: str) -> None:
            raise OSError("read-only")

    study, store = create(population_size=1), Kept(tmp_path)
    with pytest.warns(UserWarning, match=r"cannot remove the checkpoints of trial \d: OSError"):
        study.optimize(lambda trial: segment(trial, store) + trial.number * -9, n_trials=6)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    study.optimize(lambda trial: segment(trial, FileSystemArtifactStore(tmp_path)), n_trials=1)
    assert len(list(tmp_path.iterdir())) <= 4  # the next one that may has removed them


def test_a_copied_study_removes_nothing_of_the_original(store: FileSystemArtifactStore) -> None:
    study = create(population_size=1)
    study.optimize(lambda trial: segment(trial, store), n_trials=6)
    before = set(files(store))
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=study._storage,
        to_study_name="copy",
    )
    copied = optuna.load_study(study_name="copy", storage=study._storage)
    copied.sampler = PopulationSampler(seed=0, population_size=1)
    copied.optimize(lambda trial: segment(trial, store), n_trials=6)
    assert before <= set(files(store))


def test_a_retried_clone_is_not_taught_again(store: FileSystemArtifactStore) -> None:
    study = create(mutation="teacher", burn_in=0, resample_probability=0.0)
    study.optimize(lambda trial: bowl(trial, store, 1, []), n_trials=3)
    failed = study.ask()
    failed.suggest_float("x", -1, 1)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    old = study.trials[3]
    assert old.system_attrs["hg:segment"]["queried"]
    retry = {"failed_trial": 3, "fixed_params": old.params}
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=old.params,
            distributions=old.distributions,
            system_attrs={**old.system_attrs, **retry},
        )
    )
    study.optimize(lambda trial: bowl(trial, store, 1, []), n_trials=1)
    assert study.trials[4].state == optuna.trial.TrialState.COMPLETE
    assert study.trials[4].params["x"] == old.params["x"]


def test_a_plateau_starts_again_from_the_suggested_rate(store: FileSystemArtifactStore) -> None:
    rates = []

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = SGD(nn.Linear(2, 1).parameters(), lr=lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
        member.restore(optimizer=optimizer, scheduler=scheduler)
        rates.append((optimizer.param_groups[0]["lr"], *scheduler.get_last_lr(), lr))
        for _ in range(3):
            scheduler.step(1.0)
        member.save(optimizer=optimizer, scheduler=scheduler)
        return 0.0

    create(population_size=1).optimize(objective, n_trials=3)
    assert all(used == last == suggested for used, last, suggested in rates)
