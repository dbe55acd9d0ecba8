import json
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import pytest
import torch
from optuna.artifacts import Backoff, FileSystemArtifactStore, get_all_artifact_meta
from optuna.exceptions import UpdateFinishedTrialError
from safetensors.torch import save

from optuna_hypergrad.checkpoints import Checkpoint, CheckpointError, download, remove, upload
from optuna_hypergrad.checkpoints import store as store_module

STATE = {"weights": torch.arange(5.0), "step": 3}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class SpyStore:
    """A store that notes every call and fails it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def open_reader(self, artifact_id: str) -> BinaryIO:
        self.calls.append(artifact_id)
        raise OSError("the disk is on fire")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self.calls.append(artifact_id)
        raise OSError("the disk is on fire")

    def remove(self, artifact_id: str) -> None:
        self.calls.append(artifact_id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts"


@pytest.fixture(params=["plain", "backoff", "backoff twice"])
def store(request: pytest.FixtureRequest, folder: Path) -> Any:
    store: Any = FileSystemArtifactStore(folder)
    for _ in range(request.param.count("backoff") + request.param.count("twice")):
        store = Backoff(store, max_retries=2, min_delay=0.001)
    return store


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of temporary files, which is empty after each test."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    yield path
    assert not list(path.iterdir())


def asked(storage: str | None = None) -> optuna.Trial:
    return optuna.create_study(storage=storage).ask()


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/study.db"])
def test_a_state_is_restored(store: Any, tmp_path: Path, storage: str | None) -> None:
    trial = asked(storage and storage.format(tmp_path))
    checkpoint = upload(trial, store, STATE)
    trial.set_user_attr("checkpoint", checkpoint._asdict())
    (frozen,) = trial.study.trials
    stored = download(store, Checkpoint(**frozen.user_attrs["checkpoint"]))
    assert torch.equal(stored["weights"], STATE["weights"]) and stored["step"] == 3


def test_the_artifact_is_one_file_that_the_dashboard_lists(store: Any, folder: Path) -> None:
    trial = asked()
    checkpoint = upload(trial, store, STATE, filename="member_3.safetensors")
    (meta,) = get_all_artifact_meta(trial)
    assert (meta.artifact_id, meta.filename) == (checkpoint.artifact, "member_3.safetensors")
    (file,) = folder.iterdir()
    assert file.stat().st_size == checkpoint.size
    json.dumps(checkpoint._asdict())


def test_a_checkpoint_is_removed_once(store: Any, folder: Path) -> None:
    checkpoint = upload(asked(), store, STATE)
    assert remove(store, checkpoint) is True
    assert not list(folder.iterdir())
    assert remove(store, checkpoint) is False
    with pytest.raises(CheckpointError, match=f"artifact {checkpoint.artifact}: not in the store"):
        download(store, checkpoint)


def damage_a_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_a_byte, "expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"),
        (lambda data: data[:-1], r"expected \d+ bytes, got \d+"),
        (lambda data: b"", r"expected \d+ bytes, got 0"),
        (lambda data: data + b"\0", r"expected (\d+) bytes, got more than \1"),
        (lambda data: data * 3, r"expected (\d+) bytes, got more than \1"),
        (lambda data: pickle.dumps(STATE), r"expected \d+ bytes, got"),
    ],
    ids=["byte", "truncated", "empty", "longer", "much longer", "pickle"],
)
def test_a_damaged_file_is_refused(store: Any, folder: Path, damage: Any, message: str) -> None:
    checkpoint = upload(asked(), store, STATE)
    file = folder / checkpoint.artifact
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=f"^artifact {checkpoint.artifact}: {message}"):
        download(store, checkpoint)


def test_exchanged_files_are_refused(store: Any, folder: Path) -> None:
    one, other = (upload(asked(), store, {"weights": torch.full((3,), x)}) for x in (1.0, 2.0))
    (folder / one.artifact).rename(folder / "moved")
    (folder / other.artifact).rename(folder / one.artifact)
    (folder / "moved").rename(folder / other.artifact)
    for checkpoint in (one, other):
        with pytest.raises(CheckpointError, match=f"expected sha256 {checkpoint.sha256}, got"):
            download(store, checkpoint)


@pytest.mark.parametrize(
    "data", [pickle.dumps(STATE), save({"a": torch.ones(2)}, {"state": "[" * 10**6}), b""]
)
def test_a_file_of_the_right_checksum_but_wrong_contents_is_refused(
    store: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(store_module, "encode", lambda state: data)
    checkpoint = upload(asked(), store, STATE)
    message = f"^artifact {checkpoint.artifact}: expected a safetensors file"
    with pytest.raises(CheckpointError, match=message):
        download(store, checkpoint)


@pytest.mark.parametrize(
    "artifact",
    [
        *("../../etc/passwd", "/etc/passwd", "", "a/b", "..", "\0", UNKNOWN + "\0", UNKNOWN + "\n"),
        *(UNKNOWN.upper().replace("8", "A"), f"{{{UNKNOWN}}}", UNKNOWN.replace("-", "")),
        *("x" * 10**6, "../" + UNKNOWN, None, 5, [UNKNOWN]),
    ],
    ids=lambda artifact: repr(artifact)[:20],
)
@pytest.mark.parametrize("use", [download, remove])
def test_hostile_ids_never_reach_the_store(use: Any, artifact: Any) -> None:
    spy = SpyStore()
    with pytest.raises(CheckpointError, match="expected a UUID") as caught:
        use(spy, Checkpoint(artifact, "0" * 64, 10))
    assert not spy.calls and len(str(caught.value)) < 100


@pytest.mark.parametrize("size", [-1, -5, 1.0, "10", None, True])
def test_invalid_sizes_never_reach_the_store(size: Any) -> None:
    spy = SpyStore()
    with pytest.raises(CheckpointError, match="expected a size in bytes"):
        download(spy, Checkpoint(UNKNOWN, "0" * 64, size))
    assert not spy.calls


def test_a_huge_size_allocates_nothing(store: Any) -> None:
    checkpoint = upload(asked(), store, STATE)
    with pytest.raises(CheckpointError, match=f"expected {10**30} bytes, got {checkpoint.size}"):
        download(store, checkpoint._replace(size=10**30))


def test_a_store_may_return_less_than_asked_for(folder: Path) -> None:
    class Trickling(FileSystemArtifactStore):
        def open_reader(self, artifact_id: str) -> Any:
            reader = super().open_reader(artifact_id)
            read = reader.read

            class Reader:
                __enter__ = staticmethod(reader.__enter__)
                __exit__ = staticmethod(reader.__exit__)

                def read(self, size: int) -> bytes:
                    return read(min(size, 7))

            return Reader()

    store = Trickling(folder)
    assert download(store, upload(asked(), store, STATE))["step"] == 3


def test_errors_of_the_store_are_reported() -> None:
    with pytest.raises(CheckpointError, match=f"{UNKNOWN}: cannot be read: .*on fire") as caught:
        download(SpyStore(), Checkpoint(UNKNOWN, "0" * 64, 10))
    assert isinstance(caught.value.__cause__, OSError)


def test_an_upload_that_fails_leaves_no_temporary_file(temporary: Path) -> None:
    spy = SpyStore()
    with pytest.raises(OSError, match="on fire"):
        upload(asked(), spy, STATE)
    assert spy.calls
    with pytest.raises(TypeError, match=r"^model: cannot store <class 'range'>"):
        upload(asked(), spy, {"model": range(3)})
    assert len(spy.calls) == 1


def test_a_finished_trial_stores_nothing(store: Any, folder: Path) -> None:
    trial = asked()
    trial.study.tell(trial, 0.0)
    with pytest.raises(UpdateFinishedTrialError):
        upload(trial, store, STATE)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("filename", ["", "a/b", "/tmp/a", "../a"])
def test_a_filename_with_a_folder_is_refused(filename: str) -> None:
    with pytest.raises(ValueError, match="filename: expected a name without a folder"):
        upload(asked(), SpyStore(), STATE, filename=filename)
