"""Who uses the package under strict mypy finds every type of ours; Plotly's figures have none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("program.py")


@pytest.fixture
def check(cache: pytest.Cache, tmp_path: Path) -> Callable[[Path], str]:
    """What mypy says of a program, as the package is installed, with no settings but strict.

    Its cache outlives the test: to read torch's types takes most of a minute.
    """
    options = ["--strict", "--config-file=", f"--cache-dir={cache.mkdir('mypy')}"]

    def checked(program: Path) -> str:
        command = [sys.executable, "-m", "mypy", *options, str(program)]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert not ran.stderr
        return ran.stdout

    return checked


def test_a_typed_program_is_right(check: Callable[[Path], str]) -> None:
    assert check(PROGRAM).startswith("Success: no issues found in 1 source file")


def test_a_wrong_one_is_not(check: Callable[[Path], str], tmp_path: Path) -> None:
    """So the first test says something."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        PROGRAM.read_text()
        .replace('windows="auto"', 'windows="many"')
        .replace("retrained=[0.1, 0.2]", "retrained='best'")
        .replace('uses={"rate": "lr"}', "uses=[]")
    )
    said = check(wrong)
    for argument in ("windows", "retrained", "uses"):
        assert f'Argument "{argument}"' in said
    assert "Found 3 errors" in said
