"""The engine's benchmark runs from a shell; its figures hold what its table says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import scripts

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
METHODS = ["plain", "baseline", "forward", "reverse"]


def run(script: str, *arguments: str) -> str:
    done = scripts.run(BENCHMARKS / script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "out.json"


@pytest.fixture(scope="module")
def printed(out: Path) -> str:
    case = ["--networks", "lenet", "--steps", "6", "--hypers", "3+2+1", "--rounds", "1"]
    small = ["--batch", "2", "--dtype", "float64", "--methods", *METHODS]
    return run("engine.py", *case, *small, "--json", str(out))


def test_every_method_is_measured(printed: str, out: Path) -> None:
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    assert [row[:5] for row in rows] == [["lenet", "2", "6", "3+2+1", m] for m in METHODS]
    runs: list[dict[str, Any]] = json.loads(out.read_text())["runs"]
    assert all(one["seconds"] > 0 for one in runs)
    assert run("engine.py", "--read", str(out)) == printed
    assert run("engine.py", "--read", str(out), "--against", str(out)) == printed  # nothing moved
    slower = json.loads(out.read_text())
    for one in slower["runs"]:
        one["seconds"] *= 1 if one["method"] == "plain" else 2
    earlier = out.with_name("earlier.json")
    earlier.write_text(json.dumps(slower))
    told = run("engine.py", "--read", str(out), "--against", str(earlier)).removeprefix(printed)
    assert [line.split(":")[0] for line in told.splitlines()] == [
        f"lenet 2 6 3+2+1 {method}" for method in METHODS[1:]
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_is_measured_by_its_name(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    case = ["--networks", "lenet", "--steps", "6", "--hypers", "1+1+1", "--rounds", "1"]
    run("engine.py", *case, "--methods", "plain", "reverse", "--device", "cuda", "--json", str(out))
    written = json.loads(out.read_text())
    assert written["device"] == torch.cuda.get_device_name()
    assert [one["device"] for one in written["runs"]] == ["cuda", "cuda"]


def test_the_engine_agrees_with_the_published_method(printed: str, out: Path) -> None:
    assert printed
    runs = {one["method"]: one for one in json.loads(out.read_text())["runs"]}
    expected = runs["baseline"]["gradient"]
    lr, momentum = [f"lr_{i}" for i in range(3)], [f"momentum_{i}" for i in range(2)]
    assert list(expected) == [*lr, *momentum, "weight_decay"]
    for mode in ("forward", "reverse"):
        assert runs[mode]["gradient"] == pytest.approx(expected, rel=1e-10, abs=0)


def test_growth_is_drawn(printed: str, out: Path) -> None:
    assert printed
    figure = out.with_name("growth.png")
    run("engine_figure.py", str(out), str(out), "--out", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
