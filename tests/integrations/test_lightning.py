"""The Lightning callback in a real trainer."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import scripts
from integrations.problems import EXPECTED, FOUND, STEPS, data, recorded
from optuna_hypergrad import Schedule, Schedules
from optuna_hypergrad.integrations import LightningSchedules

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what Lightning imports
    from lightning.pytorch import LightningModule, Trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning asks torch for it
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Module(LightningModule):
    """A regression whose own learning rate scheduler has other plans."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.model, self.count = nn.Linear(3, 1), optimizers
        self.automatic_optimization = optimizers == 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.model(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        adams = [torch.optim.AdamW(self.parameters(), lr=7.0) for _ in range(self.count)]
        if self.count > 1:
            return adams
        self.ran = recorded(adams[0])
        decay = torch.optim.lr_scheduler.ExponentialLR(adams[0], 0.5)
        return {"optimizer": adams[0], "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = 3.0  # a warm-up, as modules do it by hand
        super().optimizer_step(*arguments, **named)


def trainer(folder: Path, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        **{"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 2}
        | quiet
        | {"default_root_dir": folder}
        | arguments
    )


def batches(size: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(*data()), batch_size=size)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_step_of_the_trainer_ran_with_the_schedules(tmp_path: Path, accumulate: int) -> None:
    """Three steps an epoch, of one batch each or of two."""
    module = Module()
    made = trainer(
        tmp_path, callbacks=[LightningSchedules(FOUND)], accumulate_grad_batches=accumulate
    )
    made.fit(module, batches(8 // accumulate))
    assert made.global_step == STEPS
    assert module.ran == [[values] for values in EXPECTED]


def test_a_resumed_run_continues_at_its_step(tmp_path: Path) -> None:
    before = trainer(tmp_path, callbacks=[LightningSchedules(FOUND, steps=STEPS)], max_epochs=1)
    before.fit(Module(), batches())
    before.save_checkpoint(tmp_path / "run.ckpt")
    module = Module()
    after = trainer(tmp_path, callbacks=[LightningSchedules(FOUND)])
    after.fit(module, batches(), ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    assert module.ran == [[values] for values in EXPECTED[STEPS // 2 :]]


@pytest.mark.parametrize(
    "found, module, arguments, message",
    [
        (Schedules([Schedule("dropout", [0.1])]), Module(), {}, "'dropout' is no option"),
        (FOUND, Module(optimizers=2), {}, "optimizer: expected one, the module has 2"),
        (
            FOUND,
            Module(),
            {"max_epochs": -1},
            "steps: the length of this training is unknown",
        ),
    ],
    ids=["option", "optimizers", "steps"],
)
def test_bad_input_is_reported_before_training(
    tmp_path: Path, found: Schedules, module: Module, arguments: Any, message: str
) -> None:
    made = trainer(tmp_path, callbacks=[LightningSchedules(found)], **arguments)
    with pytest.raises(ValueError, match=message):
        made.fit(module, batches())


@pytest.mark.parametrize(
    "library, name",
    [("lightning", "LightningSchedules"), ("transformers", "TransformersSchedules")],
)
def test_a_missing_library_is_named_with_its_extra(library: str, name: str) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
from optuna_hypergrad import integrations
assert integrations.HyperparameterScheduler and {name!r} in dir(integrations)
integrations.{name}
"""
    ran = scripts.run("-c", code)
    extra = "install the extra 'integrations' of optuna_hypergrad."
    assert f"ImportError: {library} is needed: {extra}" in ran.stderr


def test_libraries_stay_unloaded_until_first_use() -> None:
    code = """
import sys
from optuna_hypergrad.integrations import HyperparameterScheduler
sys.exit(bool({"lightning", "transformers", "plotly", "matplotlib"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
