"""The page of figures shows all of them, small, and its code draws two."""

import re
from pathlib import Path

import pytest

from optuna_hypergrad import visualization

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "figures.md").read_text()


def test_every_figure_has_a_picture_and_a_word() -> None:
    told = re.findall(r"^\*\*`(\w+)`\*\*: ", PAGE, flags=re.MULTILINE)
    assert sorted(told) == sorted(visualization.__all__)
    pictures = re.findall(r"!\[.+\]\(figure_(\w+)\.png\)", PAGE)
    assert [f"plot_{picture}" for picture in pictures] == told
    for picture in pictures:
        assert 2_000 < (DOCS / f"figure_{picture}.png").stat().st_size < 60_000


def test_the_code_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, {})  # the block is this repository's own text
    assert "fraction of training" in (tmp_path / "schedules.html").read_text()
    assert (tmp_path / "convergence.png").stat().st_size > 5_000
