"""docs/distributed.md: its code runs in one process."""

from typing import Any


def check_trials_of_one_process_have_hypergradients(page: dict[str, Any]) -> None:
    trials = page["study"].trials
    assert len(trials) == 4 and "hg:gradient" in trials[-1].system_attrs
