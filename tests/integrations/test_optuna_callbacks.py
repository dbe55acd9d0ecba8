"""Optuna's callbacks for TensorBoard, MLflow and Weights & Biases, with both samplers."""

import importlib
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna_integration
import pytest

from integrations.callbacks import SAMPLERS, searched, stored

TESTS = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.parametrize("sampler", SAMPLERS),
    pytest.mark.filterwarnings("ignore:.*Callback has been deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Callback is experimental"),
]


@pytest.fixture(scope="module")
def on_tensorboard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By sampler what TensorBoard shows and what it should show."""
    program = ("-W", "ignore", "-m", "integrations.tensorboard_program")
    command = (sys.executable, *program, str(tmp_path_factory.mktemp("runs")))
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=True)
    by_sampler: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return by_sampler


@pytest.mark.skipif(not find_spec("tensorflow"), reason="Optuna's callback writes with tensorflow")
def test_tensorboard_shows_every_complete_trial(
    sampler: str, on_tensorboard: dict[str, Any]
) -> None:
    found, expected = map(by_number, on_tensorboard[sampler])
    complete = {number: trial for number, trial in expected.items() if trial[0] is not None}
    assert found.keys() == complete.keys() and len(found) == 6
    for number, (loss, params) in complete.items():
        assert found[number] == [pytest.approx(loss), params]


def by_number(trials: dict[str, Any]) -> dict[int, Any]:
    return {int(number): trial for number, trial in trials.items()}


@pytest.fixture
def mlflow() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        return importlib.import_module("mlflow")


@pytest.fixture
def wandb() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("wandb")


def test_mlflow_has_a_run_of_every_trial(sampler: str, tmp_path: Path, mlflow: ModuleType) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = searched(
        sampler, optuna_integration.MLflowCallback(tracking_uri=uri, metric_name="loss")
    )
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(study.study_name)
    runs = [run.data for run in client.search_runs([experiment.experiment_id])]
    found = {}
    for run in runs:
        params = {name: float(value) for name, value in run.params.items()}
        found[int(run.tags["number"])] = run.metrics.get("loss"), params
    assert found == stored(study)
    assert all("hg:gradient_norm" in run.tags for run in runs if "loss" in run.metrics)


def test_weights_and_biases_log_every_trial(
    sampler: str, tmp_path: Path, wandb: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    offline = {"mode": "offline", "dir": str(tmp_path)}
    callback = optuna_integration.WeightsAndBiasesCallback(metric_name="loss", wandb_kwargs=offline)
    found: dict[int, tuple[float | None, dict[str, float]]] = {}
    log = wandb.run.log

    def logged(data: dict[str, float], step: int) -> None:
        log(data, step=step)
        found[step] = data.get("loss"), {n: v for n, v in data.items() if n != "loss"}

    monkeypatch.setattr(wandb.run, "log", logged)
    study = searched(sampler, callback)
    wandb.finish()
    assert found == stored(study)
    assert [*tmp_path.rglob("*.wandb")]  # what `wandb sync` would send
