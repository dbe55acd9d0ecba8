"""docs/arrays.md: its code finds the examples with wrong labels."""

from typing import Any


def check_the_weights_tell_wrong_labels_from_right_ones(page: dict[str, Any]) -> None:
    assert page["wrong"] < 0.2 < 0.6 < page["right"]
    study = page["study"]
    assert study.best_value < 0.6 * study.trials[0].value
    assert [*study.trials[0].params] == ["weights"]
