"""Optuna's callbacks for TensorBoard, MLflow and Weights & Biases, beside both samplers."""

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    suggest_schedule,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what these libraries import
    import mlflow.store.tracking.sqlalchemy_store
    import wandb
    from optuna_integration import (
        MLflowCallback,
        TensorBoardCallback,
        WeightsAndBiasesCallback,
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

SAMPLERS = {
    "gradient": lambda: GradientSampler(seed=0),
    "population": lambda: PopulationSampler(seed=0, population_size=3),
}

pytestmark = [
    pytest.mark.parametrize("sampler", SAMPLERS),
    pytest.mark.filterwarnings("ignore:.*Callback has been deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Callback is experimental"),
]


def objective(trial: optuna.Trial) -> float:
    """A valley with its hypergradient; one trial is pruned."""
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=2)
    if trial.number == 4:
        raise optuna.TrialPruned
    report_hypergradient(trial, {n: 2 * (v - 0.3) for n, v in lr.params.items()})
    return sum((value - 0.3) ** 2 for value in lr.values)


def searched(sampler: str, callback: Any) -> optuna.Study:
    study = optuna.create_study(study_name=f"study-{sampler}", sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=7, callbacks=[callback])
    return study


def told(study: optuna.Study) -> dict[int, tuple[float | None, dict[str, float]]]:
    """Value and parameters by number of the trial."""
    assert study.trials[4].state == TrialState.PRUNED and len(study.trials) == 7
    return {trial.number: (trial.value, trial.params) for trial in study.trials}


def test_tensorboard_shows_every_complete_trial(sampler: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="which Optuna's TensorBoardCallback writes with")
    study = searched(sampler, TensorBoardCallback(str(tmp_path), metric_name="loss"))
    found = {}
    for folder in tmp_path.iterdir():
        events = EventAccumulator(str(folder)).Reload()
        (loss,) = events.Tensors("loss")
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        params = {name: value.number_value for name, value in hparams.items()}
        found[loss.step] = make_ndarray(loss.tensor_proto).item(), params
    expected = {number: trial for number, trial in told(study).items() if trial[0] is not None}
    assert found.keys() == expected.keys()
    for number, (loss, params) in expected.items():
        assert found[number] == (pytest.approx(loss), params)


def test_mlflow_has_a_run_of_every_trial(sampler: str, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = searched(sampler, MLflowCallback(tracking_uri=uri, metric_name="loss"))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(study.study_name)
    runs = [run.data for run in client.search_runs([experiment.experiment_id])]
    found = {}
    for run in runs:
        params = {name: float(value) for name, value in run.params.items()}
        found[int(run.tags["number"])] = run.metrics.get("loss"), params
    assert found == told(study)
    assert all("hg:gradient_norm" in run.tags for run in runs if "loss" in run.metrics)


def test_weights_and_biases_log_every_trial(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    offline = {"mode": "offline", "dir": str(tmp_path)}
    callback = WeightsAndBiasesCallback(metric_name="loss", wandb_kwargs=offline)
    found: dict[int, tuple[float | None, dict[str, float]]] = {}
    log = wandb.run.log

    def logged(data: dict[str, float], step: int) -> None:
        log(data, step=step)
        found[step] = data.get("loss"), {n: v for n, v in data.items() if n != "loss"}

    monkeypatch.setattr(wandb.run, "log", logged)
    study = searched(sampler, callback)
    wandb.finish()
    assert found == told(study)
    assert [*tmp_path.rglob("*.wandb")]  # what `wandb sync` would send
