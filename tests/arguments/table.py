"""Every public function, arguments that it takes, and what it must not be given."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import optuna
import torch
from optuna.trial import FixedTrial
from security.stores import MemoryStore
from torch import nn

import optuna_hypergrad
from arguments.figures import FIGURES
from optuna_hypergrad import (
    autodiff,
    checkpoints,
    hypernet,
    integrations,
    members,
    samplers,
    visualization,
)
from optuna_hypergrad.checkpoints import Checkpoint
from optuna_hypergrad.samplers import ChainSummary, SegmentRecord

NAN, INF = float("nan"), float("inf")
NO_COUNT = [0, -1, 1.5, True, None, "3", NAN]
NO_NUMBER = ["x", None, [1.0], {}, 1j]
NOT_FINITE = [NAN, INF, -INF]
NO_CHOICE = ["x", None, 3, [], {}]
NO_OBJECT = [None, 3, "x", object()]
NO_STATE = [object(), {1.5: 0}, range(3)]  # to be stored
OTHERS_STATE = [
    3,
    "x",
    {},
    (1.0,),
    (torch.ones(2),),
    (torch.ones(3).double(),),
    (torch.ones(3),) * 2,
]

EXPECTED = (ValueError, TypeError, checkpoints.CheckpointError)


# By what else an error may name an argument.
ALSO = {
    "betas": "beta1",  # the hyperparameter in it
    "hypers": "a must be",
    "student": "model",
    "data": "expected a safetensors file",  # of what is not said: it may be a part of a message
    "state": "a: cannot store",  # the path inside
    "checkpoint": "artifact",  # its first field
}


class Case(NamedTuple):
    """A public function, called with one bad argument."""

    name: str
    argument: str
    value: Any
    call: Callable[[], Any]

    @property
    def id(self) -> str:
        return f"{self.name}-{self.argument}-{type(self.value).__name__}-{self.value!r:.12}"


def trial() -> optuna.Trial:
    """A running trial whose hypergradient is wanted."""
    sampler = optuna_hypergrad.GradientSampler(strategy="sign_descent")
    asked = optuna.create_study(sampler=sampler).ask()
    asked.suggest_float("lr", 0.0, 1.0)
    return asked


def model() -> nn.Module:
    return nn.Linear(2, 1)


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(batch).square().mean()


BATCH = torch.ones(3, 2)


def run(**arguments: Any) -> Any:
    good = {
        "model": model(),
        "loss_fn": loss,
        "update": autodiff.SGD(0.1),
        "batches": [BATCH],
        "validation": BATCH,
        "steps": 2,
    }
    return autodiff.hypergradient(**{**good, **arguments})


def forward(**arguments: Any) -> Any:
    good = {"model": model(), "loss_fn": loss, "update": autodiff.SGD(0.1), "steps": 2}
    return autodiff.ForwardMode(**{**good, **arguments}).step(BATCH)


def training(**arguments: Any) -> Any:
    conditioning = hypernet.Conditioning({"rate": hypernet.Bounded(0, 1)}, {"rate": 0.5})
    student = hypernet.convert(model(), conditioning)
    good = {
        "student": student,
        "loss_fn": loss,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
    }
    return hypernet.HyperTraining(**{**good, **arguments}).step(BATCH, BATCH)


def schedule(**arguments: Any) -> Any:
    return optuna_hypergrad.Schedule(**{"name": "lr", "values": [0.1, 0.2], **arguments})


def suggested(**arguments: Any) -> Any:
    good = {"trial": optuna.create_study().ask(), "name": "lr", "low": 0.1, "high": 1.0}
    return optuna_hypergrad.suggest_schedule(**{**good, **arguments})


def suggested_array(**arguments: Any) -> Any:
    good = {"trial": optuna.create_study().ask(), "name": "w", "low": 0.1, "high": 1.0, "shape": 3}
    return optuna_hypergrad.suggest_array(**{**good, **arguments})


def conditioned(**arguments: Any) -> Any:
    good = {"transforms": {"rate": hypernet.Bounded(0, 1)}, "values": {"rate": 0.5}}
    return hypernet.Conditioning(**{**good, **arguments})


def of_schedule(method: str, **good: Any) -> Callable[..., Any]:
    return lambda **arguments: getattr(schedule(), method)(**{**good, **arguments})


def with_conditioning(kind: Callable[..., Any], *sizes: int) -> Callable[..., Any]:
    return lambda **arguments: kind(*sizes, **arguments)


def uploaded(**arguments: Any) -> Any:
    good = {"trial": trial(), "store": MemoryStore(), "state": {}}
    return checkpoints.upload(**{**good, **arguments})


def searched() -> optuna.Study:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("lr", 0.0, 1.0), n_trials=1)
    return study


def populated() -> optuna.Study:
    study = optuna.create_study(sampler=optuna_hypergrad.PopulationSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("lr", 0.0, 1.0), n_trials=1)
    return study


def scheduled(**arguments: Any) -> integrations.HyperparameterScheduler:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    good = {"optimizer": optimizer, "schedules": {"lr": schedule()}, "steps": 2}
    return integrations.HyperparameterScheduler(**{**good, **arguments})


UNKNOWN = Checkpoint("00000000-0000-4000-8000-000000000000", "0" * 64, 1)
HYPER = {"lr": [*NO_NUMBER, NAN, BATCH]}
NO_UPDATE = [None, 3, "sgd", autodiff.SGD, torch.optim.SGD([torch.zeros(1)], lr=0.1)]
NO_MODEL = [*NO_OBJECT, nn.Identity(), nn.Linear(2, 1).half(), nn.Linear]
NO_STORE = {"store": NO_OBJECT}
ELSEWHERE = {
    "schedules": [*NO_OBJECT, {"lr": 0.1}, [0.1]],
    "steps": [0, -1, 1.5, True, "3", NAN],
    "uses": [3, "lr", ["lr"]],
}

# By public name, how to call it with one argument replaced, and what the argument must not be.
TABLE: dict[str, tuple[Callable[..., Any], dict[str, list[Any]]]] = {
    "lineage": (
        lambda study=None, **more: optuna_hypergrad.lineage(
            study if study is not None or more == {} else optuna.create_study(), **more
        ),
        {"study": [optuna.create_study(), *NO_OBJECT], "trial": [0, -1, 10**9, "x", 1.5]},
    ),
    "students": (
        optuna_hypergrad.students,
        {"study": [optuna.create_study(directions=["minimize"] * 2), *NO_OBJECT]},
    ),
    "outer_steps": (
        optuna_hypergrad.outer_steps,
        {"study": [optuna.create_study(directions=["minimize"] * 2), *NO_OBJECT]},
    ),
    "publish": (
        partial(optuna_hypergrad.publish, study=optuna.create_study()),
        {
            "study": [optuna.create_study(directions=["minimize"] * 2), *NO_OBJECT],
            "artifact_store": [3, "x", object(), MemoryStore],
        },
    ),
    "PublishCallback": (
        optuna_hypergrad.PublishCallback,
        {"every": NO_COUNT, "artifact_store": [3, "x", object(), MemoryStore]},
    ),
    "report_hypergradient": (
        partial(optuna_hypergrad.report_hypergradient, trial=trial(), gradient={"lr": 1.0}),
        {
            "trial": NO_OBJECT,
            "gradient": [None, 3, [], {}, {"x": 1.0}, {3: 1.0}, {"lr": "x"}, {"lr": BATCH}],
            "constraint": ["", 3, 0.5, [], object()],
        },
    ),
    "ConsensusPruner": (
        optuna_hypergrad.ConsensusPruner,
        {"margin": [-1.0, NAN, "x", None]},
    ),
    "DivergencePruner": (
        optuna_hypergrad.DivergencePruner,
        {
            "factor": [0.0, 1.0, NAN, "x", None],
            "tangent_factor": [0.0, NAN, "x", None],
            "n_warmup_steps": [-1, 1.5, "x", None],
        },
    ),
    "TruncationPruner": (
        optuna_hypergrad.TruncationPruner,
        {"n_warmup_steps": [-1, 1.5, "x", None]},
    ),
    "watch": (
        partial(optuna_hypergrad.watch, trial=trial(), every=1),
        {"trial": NO_OBJECT, "every": NO_COUNT},
    ),
    "optimize_batched": (
        partial(
            optuna_hypergrad.optimize_batched,
            study=optuna.create_study(),
            objective=lambda trial: 1.0,
            n_trials=1,
        ),
        {
            "study": NO_OBJECT,
            "objective": [None, 3, "x"],
            "n_trials": NO_COUNT,
            "batch_size": NO_COUNT,
            "catch": ["x", 3, [3], [int]],
            "callbacks": [3, "x", [3]],
        },
    ),
    "suggest_array": (
        suggested_array,
        {
            "trial": NO_OBJECT,
            "name": [None, 3, ""],
            "low": [*NO_NUMBER, *NOT_FINITE, 2.0, 1.0],
            "high": [*NO_NUMBER, *NOT_FINITE, 0.0],
            "shape": [0, -1, 1.5, True, None, "3", NAN, (), (2, 0), [1.5]],
            "start": ["x", {}, 2.0, NAN, [0.5, 0.5], [0.5, 0.5, 2.0]],
            "log": ["x", None],
            "step_size": [0.0, -1.0, NAN, "x", None],
        },
    ),
    "suggest_schedule": (
        suggested,
        {
            "trial": NO_OBJECT,
            "name": [None, 3, ""],
            "low": [*NO_NUMBER, *NOT_FINITE, 2.0],
            "high": [*NO_NUMBER, *NOT_FINITE, 0.0],
            "windows": [*NO_COUNT, "many"],
            "log": ["x", None],
            "form": NO_CHOICE,
        },
    ),
    "trial_seed": (
        optuna_hypergrad.trial_seed,
        {"trial": NO_OBJECT},
    ),
    "wants_hypergradient": (
        optuna_hypergrad.wants_hypergradient,
        {"trial": NO_OBJECT},
    ),
    "Schedule": (
        schedule,
        {
            "name": [None, 3, ""],
            "values": [None, 3, "x", [], [NAN], [INF], ["x"], [[1.0]], [None]],
            "form": NO_CHOICE,
            "log": ["x", None],
        },
    ),
    "Schedule.at": (
        of_schedule("at", step=0, steps=2),
        {"step": [-1, 2, 0.5, "x", None], "steps": [0, -1, "x", None, 2.5]},
    ),
    "Schedule.gradient": (
        of_schedule("gradient", step=0, steps=2),
        {"step": [-1, 2, 0.5, "x", None], "steps": [0, -1, "x", None, 2.5]},
    ),
    "Schedule.over": (of_schedule("over"), {"steps": [0, -1, "x", None, 2.5]}),
    "Schedule.derivatives": (of_schedule("derivatives"), {"steps": [0, -1, "x", None, 2.5]}),
    "Schedule.to_lambda_lr": (
        of_schedule("to_lambda_lr", optimizer=torch.optim.SGD([torch.zeros(1)], 0.1), steps=2),
        {"optimizer": NO_OBJECT, "steps": [0, -1, "x", None, 2.5]},
    ),
    "Schedule.from_json": (
        optuna_hypergrad.Schedule.from_json,
        {"text": [None, 3, "", "x", "[]", "3", "{}", '{"name": "lr"}', "[" * 10**5]},
    ),
    "Schedule.from_csv": (
        optuna_hypergrad.Schedule.from_csv,
        {
            "text": [
                *(None, 3, "", "x", "name,form,log,parameter,value\n"),
                *("name,form,log,parameter,value\nlr\n", "name,form,log,parameter,value\n,,,,x\n"),
            ]
        },
    ),
    "Schedules": (
        optuna_hypergrad.Schedules,
        {"schedules": [3, None, [0.1], "lr", [optuna_hypergrad.Schedule("lr", [0.1])] * 2]},
    ),
    "Schedules.at": (
        partial(optuna_hypergrad.Schedules([schedule()]).at, step=0, steps=2),
        {"step": [-1, 2, 0.5, "x", None], "steps": [0, -1, "x", None, 2.5]},
    ),
    "Schedules.from_json": (
        optuna_hypergrad.Schedules.from_json,
        {"text": [None, 3, "", "x", "{}", "3", "[3]", '[{"name": "lr"}]', "[" * 10**5]},
    ),
    "Schedules.from_csv": (
        optuna_hypergrad.Schedules.from_csv,
        {"text": [None, 3, "", "x", "name,form,log,parameter,value\nlr\n", '"']},
    ),
    "best_schedules": (
        partial(optuna_hypergrad.best_schedules, study=searched()),
        {"study": [*NO_OBJECT, optuna.create_study], "trial": [-1, 5, "x", 0.5, NAN, [0]]},
    ),
    "recommended": (
        optuna_hypergrad.recommended,
        {"study": [*NO_OBJECT, optuna.create_study]},
    ),
    "lineage_schedules": (
        lambda **given: optuna_hypergrad.lineage_schedules(**{"study": populated(), **given}),
        {
            "study": [*NO_OBJECT, optuna.create_study],
            "trial": [-1, 5, "x", 0.5, NAN],
            "cuts": NO_COUNT,
        },
    ),
    "HyperparameterScheduler": (
        scheduled,
        {
            "optimizer": NO_OBJECT,
            "schedules": [*NO_OBJECT, {"lr": 0.1}, [0.1], {"nothing": schedule()}],
            "steps": NO_COUNT,
            "uses": [3, "lr", ["lr"], {"rate": "lr"}, {"lr": 3}, {"lr": ""}],
        },
    ),
    "HyperparameterScheduler.set": (
        lambda **arguments: scheduled().set(**arguments),
        {"step": [-1, 1.5, "x", None, NAN]},
    ),
    "HyperparameterScheduler.load_state_dict": (
        lambda **arguments: scheduled().load_state_dict(**arguments),
        {"state": [None, 3, {}, {"steps": 3}]},
    ),
    "LightningSchedules": (
        partial(integrations.LightningSchedules, schedules={"lr": schedule()}),
        ELSEWHERE,
    ),
    "TransformersSchedules": (
        partial(integrations.TransformersSchedules, schedules={"lr": schedule()}),
        ELSEWHERE,
    ),
    "SGD": (
        partial(autodiff.SGD, lr=0.1),
        HYPER | {n: HYPER["lr"] for n in ("momentum", "weight_decay", "dampening")},
    ),
    "Adam": (
        autodiff.Adam,
        HYPER | {"betas": [None, 3, (0.9,), ("x", 0.9), (NAN, 0.9)], "eps": HYPER["lr"]},
    ),
    "AdamW": (
        autodiff.AdamW,
        HYPER | {"betas": [None, 3, (0.9,), ("x", 0.9), (NAN, 0.9)], "eps": HYPER["lr"]},
    ),
    "Averaged": (
        partial(autodiff.Averaged, update=autodiff.SGD(0.1), decay=0.9),
        {"update": NO_UPDATE, "decay": HYPER["lr"]},
    ),
    "Clipped": (
        partial(autodiff.Clipped, update=autodiff.SGD(0.1), value=1.0),
        {"update": NO_UPDATE, "value": ["x", [1.0], NAN, None], "norm": ["x", [1.0], NAN]},
    ),
    "Projected": (
        partial(autodiff.Projected, update=autodiff.SGD(0.1), model=model(), projection=dict),
        {"update": NO_UPDATE, "model": NO_OBJECT, "projection": [3, "x", None, [dict]]},
    ),
    "ParameterGroups": (
        partial(autodiff.ParameterGroups, update=autodiff.SGD(0.1), model=model(), groups=[]),
        {
            "update": NO_UPDATE,
            "model": NO_OBJECT,
            "groups": [None, 3, [3], [{}], [{"params": 3}], [{"params": []}], "x"],
        },
    ),
    "ForwardMode": (
        forward,
        {
            "model": NO_MODEL,
            "loss_fn": [None, 3, "x"],
            "update": NO_UPDATE,
            "steps": NO_COUNT,
            "hypers": [3, "x", {"a": "x"}, {"a": NAN}],
            "learn": ["lr", 3, ["x"]],
            "truncate": [-0.1, 1.0, NAN, "x", None],
            "truncation": NO_CHOICE,
            "clip_products": [0.0, -1.0, NAN, "x"],
            "clip_gradients": [0.0, -1.0, NAN, "x"],
            "products": NO_CHOICE,
            "state": OTHERS_STATE,
        },
    ),
    "hypergradient": (
        run,
        {
            "model": NO_MODEL,
            "loss_fn": [None, 3, "x"],
            "update": NO_UPDATE,
            "batches": [None, 3, [], BATCH],
            "validation": [[], "x"],
            "steps": NO_COUNT,
            "mode": NO_CHOICE,
            "hypers": [3, "x", {"a": "x"}, {"a": NAN}],
            "accumulate": NO_COUNT,
            "validation_loss_fn": [3, "x"],
            "statistics": NO_CHOICE,
            "learn": ["lr", 3, ["x"]],
            "share": ["lr", 3, ["x"]],
            "truncate": [-0.1, 1.0, NAN, "x", None],
            "truncation": NO_CHOICE,
            "clip_products": [0.0, -1.0, NAN, "x"],
            "clip_gradients": [0.0, -1.0, NAN, "x"],
            "products": NO_CHOICE,
            "state": OTHERS_STATE,
            "memory": [-1, 0, 1.5, "x"],
            "checkpoints": NO_CHOICE,
            "on_step": [3, "x"],
        },
    ),
    "Bounded": (
        partial(hypernet.Bounded, low=0.0, high=1.0),
        {"low": [1.0, 2.0, NAN, INF, "x", None], "high": [0.0, -1.0, NAN, INF, "x", None]},
    ),
    "Log": (
        partial(hypernet.Log, low=0.1, high=1.0),
        {"low": [0.0, -1.0, 2.0, NAN, "x", None], "high": [0.0, NAN, INF, "x", None]},
    ),
    "Discrete": (
        partial(hypernet.Discrete, low=0, high=3),
        {"low": [3, 4, 0.5, NAN, "x", None], "high": [0, -1, 2.5, NAN, INF, "x", None]},
    ),
    "Positive": (hypernet.Positive, {"low": [*NOT_FINITE, "x", None]}),
    "Conditioning": (
        conditioned,
        {
            "transforms": [None, 3, {}, {"rate": 3}, {"other": hypernet.Bounded(0, 1)}],
            "values": [None, 3, {}, {"x": 0.5}, {"rate": 2.0}, {"rate": NAN}, {"rate": "x"}],
        },
    ),
    "convert": (
        partial(hypernet.convert, model=model(), conditioning=conditioned()),
        {"model": [*NO_OBJECT, nn.Identity()], "conditioning": [None, "x", 0, -1, 1.5]},
    ),
    "HyperLinear": (
        with_conditioning(hypernet.HyperLinear, 2, 1),
        {"conditioning": [None, "x", 0, -1, 1.5]},
    ),
    "HyperConv2d": (
        with_conditioning(hypernet.HyperConv2d, 2, 1, 3),
        {"conditioning": [None, "x", 0, -1, 1.5]},
    ),
    "HyperEmbedding": (
        with_conditioning(hypernet.HyperEmbedding, 2, 1),
        {"conditioning": [None, "x", 0, -1, 1.5]},
    ),
    "HyperLSTMCell": (
        with_conditioning(hypernet.HyperLSTMCell, 2, 1),
        {"conditioning": [None, "x", 0, -1, 1.5]},
    ),
    "HyperDropout": (hypernet.HyperDropout, {"name": [None, 3, ""]}),
    "HyperNoise": (hypernet.HyperNoise, {"name": [None, 3, ""]}),
    "HyperTraining": (
        training,
        {
            "student": [*NO_OBJECT, model()],
            "loss_fn": [None, 3, "x"],
            "optimizer": [*NO_OBJECT, torch.optim.SGD([torch.zeros(1)], lr=0.1)],
            "validation_loss_fn": [3, "x"],
            "lr": [0.0, -1.0, NAN, "x", None],
            "scale": [0.0, -1.0, NAN, "x", None],
            "entropy_weight": [-1.0, NAN, "x", None],
            "train_steps": NO_COUNT,
            "validation_steps": NO_COUNT,
        },
    ),
    "begin": (
        partial(members.begin, trial=trial(), artifact_store=MemoryStore()),
        {
            "trial": [*NO_OBJECT, FixedTrial({})],
            "artifact_store": NO_OBJECT,
            "keep": NO_CHOICE,
        },
    ),
    "check": (checkpoints.check, {"state": NO_STATE}),
    "encode": (checkpoints.encode, {"state": NO_STATE}),
    "decode": (checkpoints.decode, {"data": [None, 3, "x", b"", b"x" * 9]}),
    "upload": (
        uploaded,
        NO_STORE
        | {
            "trial": [*NO_OBJECT, FixedTrial({})],
            "state": [object(), {"a": range(3)}],
            "filename": [None, 3, "", "a/b", "..", "\0"],
        },
    ),
    "download": (
        partial(checkpoints.download, store=MemoryStore(), checkpoint=UNKNOWN),
        NO_STORE | {"checkpoint": [None, 3, "x", (1, 2), UNKNOWN._replace(size=-1)]},
    ),
    "remove": (
        partial(checkpoints.remove, store=MemoryStore(), checkpoint=UNKNOWN),
        NO_STORE | {"checkpoint": [None, 3, "x", (1, 2), UNKNOWN._replace(artifact="..")]},
    ),
    "load_optimizer": (
        partial(
            checkpoints.load_optimizer,
            optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1),
            state={},
        ),
        {"optimizer": NO_OBJECT, "state": [None, 3, "x", {}, {"param_groups": 3, "state": {}}]},
    ),
    "set_rng_state": (checkpoints.set_rng_state, {"state": [None, 3, {}, {"python": 3}]}),
    **FIGURES,
}

ELSEWHERE_JUDGED = {"GradientSampler", "PopulationSampler"}  # in tests/samplers/test_arguments.py
# Results, protocols, errors and names, which take nothing that could be wrong.
TAKE_NOTHING = {
    *(
        SegmentRecord.__name__,
        ChainSummary.__name__,
        "MutationRecord",
        "OuterStep",
        "Cost",
        "Growth",
        "Hypergradient",
    ),
    *("RecomputeError", "Update", "Transform", "Keep", "MemberHandle", "FILENAME", "Checkpoint"),
    *("CheckpointError", "UnreachableError", "rng_state", "Unbounded", "resetting"),
}


def public_names() -> set[str]:
    tensors = (autodiff, checkpoints, hypernet, members)
    rooms = (optuna_hypergrad, *tensors, integrations, samplers, visualization)
    return {name for room in rooms for name in room.__all__}


def names(case: Case, message: str) -> bool:
    """Whether a message names the argument."""
    return case.argument in message or ALSO.get(case.argument, case.argument) in message


def cases() -> Iterator[Case]:
    for name, (function, arguments) in TABLE.items():
        for argument, values in arguments.items():
            for value in values:
                call = lambda f=function, a=argument, v=value: _call(f, a, v)  # noqa: E731
                yield Case(name, argument, value, call)


def _call(function: Callable[..., Any], argument: str, value: Any) -> Any:
    return function(**{argument: value})
