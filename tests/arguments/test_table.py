"""An error about an argument of a public function says which argument that was."""

import pytest

from arguments.table import (
    ELSEWHERE_JUDGED,
    EXPECTED,
    TABLE,
    TAKE_NOTHING,
    Case,
    cases,
    names,
    public_names,
)


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: case.id)
def test_a_wrong_argument_is_named(case: Case) -> None:
    with pytest.raises(EXPECTED) as caught:
        case.call()
    assert names(case, str(caught.value))


def test_every_public_name_is_in_the_table() -> None:
    in_table = {name.partition(".")[0] for name in TABLE}
    assert public_names() == in_table | TAKE_NOTHING | ELSEWHERE_JUDGED
