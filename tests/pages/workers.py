"""docs/workers.md: the journal of the page is a storage."""

from pathlib import Path
from typing import Any

import optuna


def check_the_journal_of_the_page_is_a_storage(page: dict[str, Any]) -> None:
    study = optuna.create_study(storage=page["storage"])
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(study.trials) == 2 and Path("journal.log").exists()
