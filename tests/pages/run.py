"""Run the code of one page in this process, then its checks.

    python -m pages.run docs/figures.md

The page's blocks run in order, as the main module of the process, in the working directory;
warnings are errors. Then the functions ``check_…`` of ``pages/figures.py``, if it exists, are
called with the names that the blocks define. Only the standard library is imported before.
"""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> Iterator[tuple[int, str]]:
    """The first line and the text of each block of a language."""
    text = (ROOT / page).read_text()
    for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(2)), textwrap.dedent(found[2])


def run(page: str) -> dict[str, Any]:
    """The names that the blocks of a page define."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    for line, code in blocks(page, "python"):
        # The empty lines make errors name the line of the page.
        exec(compile("\n" * line + code, str(ROOT / page), "exec"), vars(main))
    return vars(main)


def check(page: str, names: dict[str, Any]) -> None:
    """Call the functions that check the page."""
    module = page.removesuffix(".md").removeprefix("docs/").replace("/", "_").lower()
    if (Path(__file__).parent / f"{module}.py").exists():
        for name, function in vars(importlib.import_module(f"pages.{module}")).items():
            if name.startswith("check_"):
                function(names)


if __name__ == "__main__":
    warnings.simplefilter("error")
    check(sys.argv[1], run(sys.argv[1]))
