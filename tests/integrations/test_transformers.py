"""The callback in a real ``transformers.Trainer``."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import Tensor, nn

from integrations.problems import EXPECTED, FOUND, STEPS, data, recorded
from optuna_hypergrad import Schedule, Schedules
from optuna_hypergrad.integrations import TransformersSchedules


class Model(nn.Module):
    """A regression in the trainer's manner, with a bias, which the trainer does not decay."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.linear(x) - labels).square().mean()}


def trainer(folder: Path, *callbacks: Any, **arguments: Any) -> Any:
    examples = [{"x": x, "labels": y} for x, y in zip(*data(), strict=True)]
    options = {
        "output_dir": str(folder),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 7.0,
        "weight_decay": 0.3,
        "warmup_steps": 2,  # with a linear scheduler of its own
        "dataloader_pin_memory": False,
    }
    return transformers.Trainer(
        model=Model(),
        args=transformers.TrainingArguments(**{**options, **arguments}),
        train_dataset=examples,
        callbacks=[*callbacks],
    )


def run(made: Any, **arguments: Any) -> Any:
    made.create_optimizer()
    ran = recorded(made.optimizer)
    made.train(**arguments)
    return ran


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_step_of_the_trainer_ran_with_the_schedules(tmp_path: Path, accumulate: int) -> None:
    """Three steps an epoch, of one batch each or of two; in both groups of parameters."""
    made = trainer(
        tmp_path,
        TransformersSchedules(FOUND),
        gradient_accumulation_steps=accumulate,
        per_device_train_batch_size=8 // accumulate,
    )
    assert run(made) == [[values] * 2 for values in EXPECTED]
    logged = [log["learning_rate"] for log in made.state.log_history if "learning_rate" in log]
    assert logged == [values["lr"] for values in EXPECTED]


def test_biases_need_not_decay(tmp_path: Path) -> None:
    uses = {"weight_decay": "0.weight_decay"}
    ran = run(trainer(tmp_path, TransformersSchedules(FOUND, uses=uses)))
    assert [[group["weight_decay"] for group in groups] for groups in ran] == [
        [values["weight_decay"], 0.0] for values in EXPECTED
    ]


def test_a_resumed_run_continues_at_its_step(tmp_path: Path) -> None:
    before = trainer(
        tmp_path,
        TransformersSchedules(FOUND, steps=STEPS),
        num_train_epochs=1,
        save_strategy="epoch",
    )
    run(before)
    checkpoint = str(tmp_path / f"checkpoint-{STEPS // 2}")
    ran = run(trainer(tmp_path, TransformersSchedules(FOUND)), resume_from_checkpoint=checkpoint)
    assert ran == [[values] * 2 for values in EXPECTED[STEPS // 2 :]]


def test_without_a_learning_rate_the_trainers_scheduler_sets_it(tmp_path: Path) -> None:
    plain, ran = (
        run(trainer(tmp_path)),
        run(trainer(tmp_path, TransformersSchedules(Schedules([FOUND["beta1"]])))),
    )
    assert [g[0]["lr"] for g in ran] == [g[0]["lr"] for g in plain]
    assert [g[0]["beta1"] for g in ran] == [values["beta1"] for values in EXPECTED]


def test_an_unknown_option_is_reported_before_training(tmp_path: Path) -> None:
    made = trainer(tmp_path, TransformersSchedules({"rate": Schedule("rate", [0.1])}))
    with pytest.raises(ValueError, match="'rate' is no option of the optimizer"):
        made.train()
    assert made.state.global_step == 0
