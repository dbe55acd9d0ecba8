"""All code of all pages runs, each page in a fresh process, and does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pages.run import ROOT, blocks

TESTS = Path(__file__).parent
FILES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
PAGES = sorted(str(path.relative_to(ROOT)) for path in FILES)
WITH_CODE = [page for page in PAGES if [*blocks(page, "python")]]


def test_no_code_hides_behind_another_language() -> None:
    told = [re.findall(r"^ *```(\S+)", (ROOT / page).read_text(), re.MULTILINE) for page in PAGES]
    assert {language for page in told for language in page} <= {"python", "sh", "text"}


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pages.run", page]
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    told = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    for _, shown in blocks(page, "text"):
        for line in shown.splitlines():
            assert as_shown(line).search(told.stderr + told.stdout), line


def as_shown(line: str) -> re.Pattern[str]:
    """A printed line as pages show it: losses may differ in the last digit, … is the rest."""
    rounded = re.sub(r"\\\(0\\\.\d+\\\)", r"\\(0\\.\\d+\\)", re.escape(line))
    return re.compile(rounded.replace("…", ".*") + "$", re.MULTILINE)
