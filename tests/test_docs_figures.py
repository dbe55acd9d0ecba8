"""docs/figures.md describes and shows every figure."""

import re
from pathlib import Path

from optuna_hypergrad import visualization

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "figures.md").read_text()


def test_every_figure_has_a_picture_and_a_word() -> None:
    described = re.findall(r"^\*\*`(\w+)`\*\*: ", PAGE, flags=re.MULTILINE)
    assert sorted(described) == sorted(visualization.__all__)
    pictures = re.findall(r"!\[.+\]\(figure_(\w+)\.png\)", PAGE)
    of_functions = [f"plot_{picture}" for picture in pictures if not picture.endswith("_by_trial")]
    assert of_functions == described
    for picture in pictures:
        assert 2_000 < (DOCS / f"figure_{picture}.png").stat().st_size < 60_000
