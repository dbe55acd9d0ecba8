"""A study with Optuna's TensorBoardCallback, in its own process.

TensorFlow, which the callback writes with, brings an LLVM that breaks ``torch.compile``.

    python -m integrations.tensorboard_program FOLDER

prints as JSON what was written to the folder, and what should be there.
"""

import json
import sys
from pathlib import Path

from optuna_integration import TensorBoardCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from integrations.callbacks import SAMPLERS, Trials, searched, stored


def written(folder: Path) -> Trials:
    """Value and parameters of each trial, as TensorBoard reads them."""
    found = {}
    for run in folder.iterdir():
        events = EventAccumulator(str(run)).Reload()
        (loss,) = events.Tensors("loss")
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        params = {name: value.number_value for name, value in hparams.items()}
        found[loss.step] = make_ndarray(loss.tensor_proto).item(), params
    return found


def compared(sampler: str, folder: Path) -> tuple[Trials, Trials]:
    """What is in the folder after a search, and what should be."""
    study = searched(sampler, TensorBoardCallback(str(folder), metric_name="loss"))
    return written(folder), stored(study)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    print(json.dumps({sampler: compared(sampler, root / sampler) for sampler in SAMPLERS}))
