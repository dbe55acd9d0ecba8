"""What docs/windows.md promises: its code runs and finds what it says."""

import re
from pathlib import Path
from typing import Any

import optuna

PAGE = (Path(__file__).parents[1] / "docs" / "windows.md").read_text()


def test_the_code_measures_noise_and_cuts_windows() -> None:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)  # the blocks are this repository's own text
    assert names["ratios"].shape == (4,)
    assert names["ratios"][0] > 3  # settled at first
    assert names["widths"] == (16, 16, 32)
    study: optuna.Study = names["study"]
    assert study.trials[-1].user_attrs["hg:windows"] == "lr 16+16+32"
    assert study.best_params["lr_0"] < study.best_params["lr_63"]
