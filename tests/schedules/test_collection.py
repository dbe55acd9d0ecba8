import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_hypergrad import Schedule, Schedules

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCHEDULE = st.builds(
    Schedule,
    st.text(min_size=1).filter(lambda name: "\0" not in name),  # Python 3.10's csv reads none
    st.lists(FINITE, min_size=2, max_size=4),
    st.sampled_from(["constant", "linear", "cosine"]),
)
SCHEDULES = st.lists(SCHEDULE, max_size=3, unique_by=lambda schedule: schedule.name).map(Schedules)


def made() -> Schedules:
    return Schedules(
        [Schedule("lr", [0.4, 0.1], "linear", log=True), Schedule('b,"1"\n', [-1 / 3])]
    )


@given(SCHEDULES)
def test_json_and_csv_restore_all_exactly(schedules: Schedules) -> None:
    assert Schedules.from_json(schedules.to_json()) == schedules
    assert Schedules.from_csv(schedules.to_csv()) == schedules
    assert [*Schedules.from_csv(schedules.to_csv())] == [*schedules]


def test_schedules_are_an_ordered_immutable_mapping() -> None:
    schedules = made()
    assert [*schedules] == ["lr", 'b,"1"\n']
    assert schedules["lr"].form == "linear" and len(schedules) == 2
    assert schedules == {**schedules} and schedules != Schedules()
    assert not hasattr(schedules, "__setitem__")
    assert repr(Schedules([Schedule("a", [1.0])])).startswith("Schedules([Schedule(name='a'")


def test_values_at_a_step_are_those_of_each_schedule() -> None:
    assert made().at(5, 10) == {"lr": pytest.approx(0.2), 'b,"1"\n': -1 / 3}


def test_a_table_with_other_line_ends_and_empty_lines_is_read() -> None:
    schedules = Schedules([Schedule("lr", [0.4, 0.1]), Schedule("momentum", [0.9])])
    assert Schedules.from_csv(schedules.to_csv().replace("\n", "\r\n") + "\r\n") == schedules


def test_a_schedule_reads_only_a_table_of_one_schedule() -> None:
    with pytest.raises(ValueError, match="text: expected CSV of one schedule, got 2 of them"):
        Schedule.from_csv(made().to_csv())
    alone = Schedules([Schedule("lr", [0.4, 0.1])])
    assert Schedule.from_csv(alone.to_csv()) == alone["lr"]


HEAD = "name,form,log,parameter,value\n"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Schedules([Schedule("a", [1.0])] * 2), "schedules: two have the name 'a'"),
        (lambda: Schedules([0.1]), "schedules must be schedules, got 0.1"),
        (lambda: Schedules(3), "schedules must be an iterable of schedules, got 3"),
        (lambda: Schedules.from_json("{}"), "text must be a JSON array of schedules"),
        (lambda: Schedules.from_json("[3]"), "text: not a schedule"),
        (lambda: Schedules.from_json("["), "text: not JSON"),
        (lambda: Schedules.from_json(made().to_json().replace("0.4", "NaN")), "lr_0 must be"),
        (lambda: Schedules.from_json(json.dumps([made()["lr"].record] * 2)), "two have the name"),
        (lambda: Schedules.from_csv(""), "text: expected CSV with the columns name, form"),
        (lambda: Schedules.from_csv(HEAD + "lr,constant,0,lr\n"), "text: expected CSV with"),
        (lambda: Schedules.from_csv(HEAD + "lr,constant,2,lr,1\n"), "log: 0 or 1"),
        (lambda: Schedules.from_csv(HEAD + "lr,constant,0,lr,x\n"), "text: not a schedule"),
        (
            lambda: Schedules.from_csv(HEAD + "lr,constant,0,lr_0,1\nlr,linear,0,lr_1,2\n"),
            "the rows of 'lr' must agree in form",
        ),
        (
            lambda: Schedules.from_csv(HEAD + "a,constant,0,a,1\nb,constant,0,b,2\na,linear,0,a,3"),
            "not a schedule|two have the name",
        ),
    ],
)
def test_bad_input_names_the_argument(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_table_that_a_spreadsheet_saved_is_read() -> None:
    schedules = Schedules([Schedule("lr", [0.5, 0.25])])
    assert Schedules.from_csv("\ufeff" + schedules.to_csv()) == schedules
