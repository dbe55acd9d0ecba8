"""The pictures of docs/dashboard.md exist."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "dashboard.md").read_text()


def test_the_pictures_exist_and_are_small() -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", PAGE)
    assert len(pictures) == 7
    assert all(0 < (DOCS / name).stat().st_size < 150_000 for name in pictures)
