"""Nothing that a storage or an artifact store returns is executed, and no id leaves its folder."""

import ast
import hashlib
import io
import json
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from optuna_hypergrad import members
from optuna_hypergrad.checkpoints import FILENAME, CheckpointError, upload
from security.searches import copied, population_sampler, refused, replayed, work_on
from security.stores import MemoryStore

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("optuna_hypergrad/**/*.py"), *ROOT.glob("examples/**/*.py")]

# What runs code that it reads, whether it says so or not.
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "runpy", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "torch.hub.load"),
    *("os.system", "os.popen"),
}
OBJECTS = {"broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """What of the above a module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").partition(".")[0]} & MODULES
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & METHODS
        elif isinstance(node, ast.Name):
            yield from {node.id} & BUILTINS
        elif isinstance(node, ast.Attribute):
            yield from {ast.unparse(node)} & METHODS | {node.attr} & OBJECTS
        elif isinstance(node, ast.keyword):
            yield from {node.arg or ""} & {"allow_pickle"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_here_runs_code_that_it_reads(path: Path) -> None:
    assert not list(dangers(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml as y",
        "def f(x):\n    return eval(x)",
        "from torch import load",
        "import torch\ntorch.load(f, weights_only=True)",
        "dist.broadcast_object_list([x])",
        "numpy.load(f, allow_pickle=True)",
    ],
)
def test_what_runs_code_would_be_found(code: str) -> None:
    assert list(dangers(ast.parse(code)))


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._mark,))


def pickled(bomb: Bomb) -> bytes:
    return pickle.dumps({"parts": bomb, "rng": bomb})


def torch_saved(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"parts": bomb, "rng": bomb}, file)
    return file.getvalue()


def plant(trials: list[FrozenTrial], store: MemoryStore, data: bytes) -> None:
    """Put a file in the place of every checkpoint, with the right size and checksum."""
    for trial in trials:
        checkpoint = trial.system_attrs.get("hg:checkpoint")
        if checkpoint is not None:
            checkpoint |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            store.files[checkpoint["artifact"]] = data


@pytest.mark.parametrize("serialise", [pickled, torch_saved])
def test_a_planted_pickle_is_refused_unread(tmp_path: Path, serialise: Any) -> None:
    mark = tmp_path / "mark"
    trials, store = copied(population_sampler)
    plant(trials, store, serialise(Bomb(mark)))
    errors = work_on(replayed(trials, population_sampler()), store)
    assert any("expected a safetensors file with a state" in error for error in errors)
    assert not mark.exists()
    torch.load(io.BytesIO(torch_saved(Bomb(mark))), weights_only=False)
    assert mark.exists()  # the bomb is a live one


def test_attributes_that_look_like_code_are_only_text(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    trials, store = copied(population_sampler)
    for trial in trials:
        for attrs in (trial.user_attrs, trial.system_attrs):
            attrs |= {key: _with(value, code) for key, value in attrs.items()}
    assert work_on(replayed(trials, population_sampler()), store)
    assert not mark.exists()


def _with(value: Any, text: str) -> Any:
    """The same, with each string replaced."""
    if isinstance(value, dict):
        return {key: _with(item, text) for key, item in value.items()}
    return text if isinstance(value, str) else value


HOSTILE = ["../../etc/passwd", "/etc/passwd", "..", "a/b", "\0", "ａ" * 36, "A" * 36, "x" * 10**5]


@pytest.mark.parametrize("artifact", HOSTILE, ids=lambda artifact: repr(artifact)[:20])
def test_no_artifact_outside_the_folder_is_read(artifact: str) -> None:
    trials, store = copied(population_sampler)
    for trial in trials:
        if "hg:checkpoint" in trial.system_attrs:
            trial.system_attrs["hg:checkpoint"]["artifact"] = artifact
    errors = work_on(replayed(trials, population_sampler()), store)
    assert any("expected a UUID" in error and len(error) < 2000 for error in errors)
    assert artifact not in store.asked


@pytest.mark.parametrize("artifact", HOSTILE, ids=lambda artifact: repr(artifact)[:20])
def test_no_artifact_outside_the_folder_is_removed(artifact: str) -> None:
    trials, store = copied(population_sampler)
    meta = {"artifact_id": artifact, "filename": FILENAME, "mimetype": "x", "encoding": None}
    for trial in trials:
        trial.system_attrs |= {"artifacts:x": json.dumps(meta)}
    study = replayed(trials, population_sampler())
    work_on(study, store)
    assert store.asked and artifact not in store.asked


def test_only_the_user_can_read_a_checkpoint_on_its_way(tmp_path: Path) -> None:
    modes: list[int] = []

    class Store(MemoryStore):
        def write(self, artifact_id: str, content_body: BinaryIO) -> None:
            modes.append(stat.S_IMODE(Path(content_body.name).parent.stat().st_mode))
            super().write(artifact_id, content_body)

    upload(optuna.create_study().ask(), Store(), {"weights": torch.ones(2)})
    assert modes == [0o700]


def test_a_checkpoint_of_something_else_is_refused() -> None:
    store, study = MemoryStore(), optuna.create_study(sampler=population_sampler())
    for _ in range(3):
        trial = study.ask()
        members.begin(trial, store).save()
        study.tell(trial, 0.0)
    other = upload(study.ask(), store, {"weights": torch.ones(2)})
    trials = study.get_trials()
    trials[0].system_attrs["hg:checkpoint"] |= other._asdict()
    tampered = replayed(trials[:3], population_sampler())
    member = members.begin(tampered.ask(), store)
    assert "expected the checkpoint of a segment" in refused(member.restore)
    with pytest.raises(CheckpointError):
        member.restore()
