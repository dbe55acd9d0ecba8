"""examples/distributed: started for real where this machine can, else read with care."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

import scripts

EXAMPLES = Path(__file__).parents[2] / "examples" / "distributed"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
URL = "sqlite:///{}/study.db"
VARIABLES = {"STUDY_STORAGE": f"{URL}\n", "STUDY_STEPS": "10", "OMP_NUM_THREADS": "1"}
KILLER = """  # what each worker of Dask loads: the first that is at work dies
import os, pathlib, signal, threading, time

def die(worker):
    while not worker.state.executing:
        time.sleep(0.05)
    try:
        pathlib.Path(os.environ["DIED"]).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def dask_setup(worker):
    threading.Thread(target=die, args=(worker,), daemon=True).start()
"""


def run(folder: Path, *command: str, **variables: str) -> str:
    """What a command prints; its study lives in the folder, and its URL comes from a file."""
    own = {name: value.format(folder) for name, value in VARIABLES.items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path, **own, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=None, storage=URL.format(folder))
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def workers(folder: Path) -> set[str]:
    """Who ran the trials."""
    return {trial.user_attrs["worker"] for trial in trials(folder)}


class Forked:
    """A worker that a script starts by ``subprocess.Popen``, as a fork, which is quicker."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        assert command[0] == sys.executable
        self.running = scripts.start(*command[1:], **env)

    def wait(self) -> int:
        return self.running.wait().returncode


def test_one_worker_for_each_gpu_or_part_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("one_worker_per_gpu")
    monkeypatch.setattr(script.subprocess, "Popen", Forked)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setattr(sys, "argv", ["one_worker_per_gpu.py", "--workers", "2", "--trials", "6"])
    script.main()
    assert len(workers(tmp_path)) == 2 and len(trials(tmp_path)) in (6, 7)


def by_torchrun(folder: Path, *command: str) -> str:
    return run(folder, "torchrun", "--standalone", "--nproc-per-node", "2", *command)


def by_variables(folder: Path, *command: str) -> str:
    """The same as forks, which is quicker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {name: value.format(folder) for name, value in VARIABLES.items()}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [scripts.start(*command, cwd=folder, **own, RANK=rank) for rank in ("0", "1")]
    ended = [rank.wait() for rank in ranks]
    assert [rank.returncode for rank in ended] == [0, 0], ended
    return "".join(rank.stdout for rank in ended)


@pytest.mark.parametrize(
    "launch", [by_variables, pytest.param(by_torchrun, marks=pytest.mark.slow)]
)
def test_ranks_spread_each_trial(tmp_path: Path, launch: Callable[..., str]) -> None:
    printed = launch(tmp_path, str(EXAMPLES / "worker.py"), "--trials", "3")
    assert printed.startswith("2 ranks; 3 trials, best loss ")
    assert len(trials(tmp_path)) == 3 and len(workers(tmp_path)) == 1
    assert all("hg:gradient" in trial.system_attrs for trial in trials(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("database", [False, True])
def test_dask_shares_out_a_study(tmp_path: Path, database: bool) -> None:
    script = str(EXAMPLES / "dask_workers.py")
    options = ("--trials", "12", *(("--database",) if database else ()))
    own = {name: value.format(tmp_path) for name, value in VARIABLES.items()}
    own |= {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver"}
    done = scripts.run(script, *options, cwd=tmp_path, **own)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert printed.startswith("2 workers; 1")
    assert not database or len(workers(tmp_path)) == 2


@pytest.mark.slow
def test_dask_goes_on_without_a_worker_that_is_killed(tmp_path: Path) -> None:
    script, died, killer = EXAMPLES / "dask_workers.py", tmp_path / "died", tmp_path / "killer.py"
    killer.write_text(KILLER)
    variables = {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(killer), "DIED": str(died)}
    printed = run(tmp_path, sys.executable, str(script), "--trials", "6", **variables)
    assert died.exists() and printed.startswith("2 workers; ")


@pytest.mark.slow
def test_the_benchmark_compares_one_rank_with_two(tmp_path: Path) -> None:
    script, out = EXAMPLES.parent / "benchmarks" / "ranks.py", tmp_path / "out.json"
    sizes = ("--steps", "6", "--batch", "8", "--windows", "2", "--rounds", "1")
    printed = run(tmp_path, sys.executable, str(script), *sizes, "--json", str(out))
    found = json.loads(out.read_text())
    assert "times as fast" in printed and found["hypers"] == "2+2+2"
    assert [len(times) for times in found["seconds"].values()] == [1, 1]
    assert found["difference"] < 1e-3  # in float32


def load(name: str) -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("one_worker_per_gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5f")
    assert script.environments(None) == [
        {"CUDA_VISIBLE_DEVICES": "2"},
        {"CUDA_VISIBLE_DEVICES": "GPU-5f"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [own["CUDA_VISIBLE_DEVICES"] for own in script.environments(None)] == [""]
    assert len(script.environments(3)) == 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_job_scripts_pass_the_linter(script: Path) -> None:
    for linter in (("bash", "-n"), (str(Path(sys.executable).with_name("shellcheck")),)):
        found = subprocess.run([*linter, str(script)], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_job_scripts_start_workers_with_the_storage(script: Path, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://user:secret@host/study\n")
    (tmp_path / "srun").write_text(
        '#!/bin/bash\necho "$@ with $(( ${#STUDY_STORAGE} )) characters in $PWD"\n'
    )
    (tmp_path / "scontrol").write_text("#!/bin/bash\nprintf 'node1\\nnode2\\n'\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    printed = run(
        tmp_path,
        "bash",
        str(script),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        STUDY_STORAGE_FILE=str(tmp_path / "url"),
        SLURM_SUBMIT_DIR=str(EXAMPLES),
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_JOB_NUM_NODES="2",
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="4",
    )
    assert "--cpus-per-task=4 " in printed  # which srun does not inherit
    assert "worker.py --trials" in printed and "secret" not in printed
    assert printed.endswith(f"with 35 characters in {EXAMPLES}\n")
    assert "one_trial" not in script.name or "--rdzv-endpoint node1:29500" in printed


def test_the_array_of_jobs_asks_for_what_it_uses() -> None:
    for script in SCRIPTS:
        options = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
        names = {line.split()[1].split("=")[0] for line in options}
        assert {"--job-name", "--time", "--output", "--cpus-per-task"} <= names


def fields(value: Any, kinds: dict[str, Any], place: str = "") -> Iterator[str]:
    """Where a manifest lacks a field, or has one of another type, or one that is not known."""
    for name, kind in kinds.items():
        here = f"{place}.{name.rstrip('?')}"
        found = value.get(name.rstrip("?"))
        if found is None:
            if not name.endswith("?"):
                yield f"{here} is missing"
        elif isinstance(kind, dict):
            yield from fields(found, kind, here)
        elif isinstance(kind, list):
            for index, item in enumerate(found):
                yield from fields(item, kind[0], f"{here}[{index}]")
        elif not isinstance(found, kind):
            yield f"{here} is {found!r}"
    unknown = value.keys() - {name.rstrip("?") for name in kinds}
    yield from (f"{place}.{name} is unknown" for name in unknown)


CONTAINER = {
    "name": str,
    "image": str,
    "workingDir?": str,
    "command": list,
    "env": [
        {"name": str, "value?": str, "valueFrom?": {"secretKeyRef": {"name": str, "key": str}}}
    ],
    "resources": {"requests": dict, "limits": dict},
    "securityContext": {"allowPrivilegeEscalation": bool},
}
JOB = {  # what the batch/v1 API knows of, as far as it is used here
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "completionMode": str,
        "completions": int,
        "parallelism": int,
        "backoffLimit": int,
        "template": {
            "spec": {
                "restartPolicy": str,
                "automountServiceAccountToken": bool,
                "securityContext": {"runAsNonRoot": bool, "runAsUser": int},
                "containers": [CONTAINER],
            }
        },
    },
}


def test_the_kubernetes_job_has_the_fields_of_its_kind_and_no_password() -> None:
    text = (EXAMPLES / "kubernetes.yaml").read_text()
    (job,) = yaml.safe_load_all(text)
    assert list(fields(job, JOB)) == []
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")  # a Job takes no other
    env = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
    assert "value" not in env["STUDY_STORAGE"] and "://" not in text
    assert pod["containers"][0]["command"][1] == "/study/worker.py"
