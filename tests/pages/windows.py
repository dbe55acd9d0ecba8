"""docs/windows.md: its code runs and finds what it says."""

from typing import Any


def check_the_code_measures_noise_and_cuts_windows(page: dict[str, Any]) -> None:
    assert page["ratios"].shape == (4,)
    assert page["ratios"][0] > 3  # settled at first
    assert page["widths"] == (16, 16, 32)
    study = page["study"]
    assert study.trials[-1].user_attrs["hg:windows"] == "lr 16+16+32"
    assert study.best_params["lr_0"] < study.best_params["lr_63"]
