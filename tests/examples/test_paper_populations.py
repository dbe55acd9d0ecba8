"""The population experiments of the HPM paper, in small and on data made up here."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import optuna
import pytest
from PIL import Image

import scripts

SCRIPT = Path(__file__).parents[2] / "examples" / "paper" / "populations.py"
SMALL = ("--seeds", "0", "--population", "2", "--generations", "2")


def write_images(folder: Path) -> None:
    """CIFAR-10 with one image of one colour for each class."""
    files = []
    for label in range(10):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (25 * label, 255 - 25 * label, 128)).save(file, "JPEG")
        files.append(file.getvalue())
    arrays = {}
    for part, repeats in (("train", 400), ("test", 200)):
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files * repeats), dtype=np.uint8)
        arrays[f"{part}_ends"] = np.cumsum([len(file) for file in files * repeats])
        arrays[f"{part}_labels"] = np.array([*range(10)] * repeats, dtype=np.uint8)
    np.savez(folder / "cifar10_jpeg.npz", **arrays)


def write_text(folder: Path) -> None:
    words = np.random.default_rng(0).integers(50, size=4000)
    for part in ("valid", "test"):
        (folder / f"ptb.{part}.txt").write_text(" ".join(f"word{word}" for word in words))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    write_text(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str, script: Path = SCRIPT) -> CompletedProcess[str]:
    places = ("--data", ".", "--storage", f"sqlite:///{folder}/populations.db")
    return scripts.run(script, *places, *arguments, cwd=folder)


@pytest.mark.slow
def test_a_cell_is_stored_and_tabulated(folder: Path) -> None:
    cell = ("--jobs", "cifar10", "--methods", "hpm", *SMALL, "--steps", "2")
    done = run(folder, *cell)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    storage = f"sqlite:///{folder}/populations.db"
    trials = optuna.load_study(study_name="cifar10/hpm/0", storage=storage).trials
    assert len(trials) == 4
    assert all(math.isfinite(trial.user_attrs["measured"]["test"]["loss"]) for trial in trials)
    table = SCRIPT.with_name("populations_table.py")
    done = scripts.run(table, "--storage", storage, "--out", folder / "results", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0.5636 / 0.5649" in done.stdout and "| ours | not run |" in done.stdout


@pytest.mark.slow
def test_cells_are_stored_continued_and_tabulated(folder: Path) -> None:
    images = ("--jobs", "cifar10", "--methods", "hpm", "pbt", *SMALL, "--steps", "2")
    text = ("--jobs", "ptb", "--methods", "hpm-retrained-teacher", *SMALL)
    names = ["cifar10/hpm/0", "cifar10/pbt/0", "ptb/hpm-retrained-teacher/0"]
    printed = []
    for arguments in (images, (*text, "--steps", "2")):
        done = run(folder, *arguments)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        printed += done.stdout.splitlines()
    assert [line.split(": ")[0] for line in printed] == names
    assert run(folder, *text, "--steps", "2").stdout.splitlines() == printed[2:]
    other = run(folder, *text, "--steps", "3")
    assert other.returncode == 1 and f"{names[2]} was begun with" in other.stderr

    storage = f"sqlite:///{folder}/populations.db"
    for name in names:
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert len(trials) == 4
        assert all(math.isfinite(trial.user_attrs["measured"]["test"]["loss"]) for trial in trials)

    table = SCRIPT.with_name("populations_table.py")
    done = scripts.run(table, "--storage", storage, "--out", folder / "results", cwd=folder)
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "results" / "populations.json").read_text())
    hpm = written["cells"]["cifar10"]["hpm"]["0"]
    assert hpm["members"] == 2 and hpm["seconds"]["teacher"] > 0
    retrained = written["cells"]["ptb"]["hpm-retrained-teacher"]["0"]
    for cell in (hpm, retrained):
        assert cell["mutation"]["1"]["clones"] == 1 and cell["mutation"]["1"]["degree"] > 0
    assert "0.5636 / 0.5649" in done.stdout and "| ours | not run |" in done.stdout
    assert done.stdout == (folder / "results" / "populations.md").read_text()
    for job in ("cifar10", "ptb"):
        assert (folder / "results" / f"populations_{job}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_all_methods_run(folder: Path) -> None:
    done = run(folder, *SMALL, "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20


@pytest.mark.slow
def test_two_workers_share_a_population(folder: Path) -> None:
    script = SCRIPT.with_name("populations_scaling.py")
    arguments = ("--jobs", "cifar10", "--workers", "1", "2", "--steps", "2", *SMALL[2:])
    done = run(folder, *arguments, script=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cifar10, 1 workers: 4 segments")
