"""Python scripts run as from a shell, in forks of a process that has imported the large libraries.

So each starts in a tenth of a second instead of three; what is to be judged in a new interpreter
takes ``subprocess`` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import NamedTuple

from databases import PROCESSES

multiprocessing.set_forkserver_preload(
    [
        *("alembic.command", "optuna_hypergrad.members", "sqlalchemy.orm"),  # as in databases
        *("matplotlib.pyplot", "plotly.graph_objects", "sklearn.datasets"),
        *("sklearn.model_selection", "torch._dynamo", "torch.fx.experimental.symbolic_shapes"),
    ]
)


class Running(NamedTuple):
    """A script that has been started."""

    process: BaseProcess
    arguments: list[str]
    outputs: tempfile.TemporaryDirectory[str]

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.outputs.cleanup()

    def wait(self, timeout: float = 300) -> CompletedProcess[str]:
        """How it ended and what it printed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutExpired(self.arguments, timeout)
        with self.outputs as folder:
            printed = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
            return CompletedProcess(self.arguments, self.process.exitcode, *printed)


def start(
    script: Path | str, *arguments: object, cwd: Path | None = None, **variables: str
) -> Running:
    """Start a script in a folder, with variables of its environment; warnings are errors.

    In place of a script may stand ``"-m"`` and a module's name, or ``"-c"`` and code, as with
    ``python``.
    """
    outputs = tempfile.TemporaryDirectory()
    command = [str(script), *map(str, arguments)]
    process = PROCESSES.Process(
        target=_run, args=(command, str(cwd or Path.cwd()), variables, outputs.name)
    )
    process.start()
    return Running(process, command, outputs)


def run(
    script: Path | str, *arguments: object, cwd: Path | None = None, **variables: str
) -> CompletedProcess[str]:
    """Run a script to its end."""
    return start(script, *arguments, cwd=cwd, **variables).wait()


def _run(command: list[str], folder: str, variables: dict[str, str], outputs: str) -> None:
    for stream, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(Path(outputs, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
    os.environ.update(variables)
    os.chdir(folder)
    warnings.simplefilter("error")
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        exec(command[1], {"__name__": "__main__"})
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
