"""The code of each page runs in a process of its own and does what the page says.

That of the README runs in a new interpreter, as a reader's does; the others in forks that have
imported the large libraries.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scripts
from pages.run import ROOT, blocks

TESTS = Path(__file__).parent
FILES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
PAGES = sorted(str(path.relative_to(ROOT)) for path in FILES)
WITH_CODE = [page for page in PAGES if [*blocks(page, "python")]]


def test_blocks_are_code_that_runs_commands_or_text() -> None:
    for page in PAGES:
        languages = re.findall(r"^ *```(\S+)", (ROOT / page).read_text(), re.MULTILINE)
        assert {*languages} <= {"python", "sh", "text"}, page


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    command = ("-m", "pages.run", page)
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if page == "README.md":
        process = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
        )
    else:
        process = scripts.run(*command, cwd=tmp_path, **paths)
    assert process.returncode == 0, process.stderr
    for _, shown in blocks(page, "text"):
        for line in shown.splitlines():
            assert as_shown(line).search(process.stderr + process.stdout), line


def as_shown(line: str) -> re.Pattern[str]:
    """A pattern for a line that a page shows: losses may differ, … stands for any text."""
    rounded = re.sub(r"\\\(0\\\.\d+\\\)", r"\\(0\\.\\d+\\)", re.escape(line))
    return re.compile(rounded.replace("…", ".*") + "$", re.MULTILINE)
