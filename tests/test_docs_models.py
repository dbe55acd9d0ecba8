"""The code of docs/models.md runs."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()


def test_its_blocks_run_from_first_to_last() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})  # the blocks are this repository's own text
