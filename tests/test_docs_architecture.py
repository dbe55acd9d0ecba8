"""docs/architecture.md: short, its files exist, and its table has the rooms with their imports."""

import re
from pathlib import Path

from test_imports import PACKAGE, imports

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
EVERYWHERE = {"arguments", "logger", "optuna_hypergrad"}


def names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_the_page_has_at_most_80_lines() -> None:
    assert len(PAGE.splitlines()) <= 80


def test_files_of_the_page_exist() -> None:
    folders = [ROOT, PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    for name in re.findall(r"`([\w/]+(?:\.py|\.md|/))`", PAGE):
        assert any((folder / name).exists() for folder in folders), name


def test_the_table_has_all_rooms_with_their_imports() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
    rooms = {room for row in rows for room in names(row[0])}
    entries = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith((".", "__"))}
    assert rooms == entries - EVERYWHERE - {"py"}
    for row in rows:
        files = [file for room in names(row[0]) for file in files_of(room)]
        used = {name for file in files for name in imports(file)} & entries
        own = names(row[0]) if len(names(row[0])) == 1 else set()
        assert names(row[2]) == used - EVERYWHERE - own, row[0]


def files_of(room: str) -> list[Path]:
    folder = PACKAGE / room
    return [*folder.rglob("*.py")] if folder.is_dir() else [folder.with_suffix(".py")]
