"""Hostile checkpoint files: each is read as a state or raises our own error."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_hypergrad.checkpoints import CheckpointError, decode, encode

STATE = {"weights": torch.arange(6.0).reshape(2, 3), "more": [torch.ones(2), None, 2**70]}


def file(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, and any stated length."""
    encoded = header.encode()
    stated = len(encoded) if length is None else length
    return stated.to_bytes(8, "little") + encoded + data


def described(tensors: dict[str, Any], state: str = '{"tensor": "0"}') -> str:
    return json.dumps({"__metadata__": {"state": state}, **tensors})


def floats(first: int, last: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(last - first) // 4], "data_offsets": [first, last]}


GOOD = described({"0": floats(0, 8)})
BODY = bytes(8)


def test_the_files_here_are_hostile_in_one_thing_only() -> None:
    assert decode(file(GOOD, BODY)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "data",
    [
        file(GOOD, BODY, length=2**64 - 1),
        file(GOOD, BODY, length=2**40),
        file(GOOD, BODY, length=len(GOOD) + 1),
        file(GOOD, BODY, length=len(GOOD) - 1),
        file(GOOD, BODY, length=0),
        file(GOOD, BODY + b"\0"),
        file(GOOD, BODY[:-1]),
        file(described({"0": floats(0, 8), "1": floats(4, 12)}), bytes(12)),
        file(described({"0": floats(0, 8), "1": floats(12, 16)}), bytes(16)),
        file(described({"0": floats(0, 8), "1": floats(0, 8)}), BODY),
        file(described({"0": floats(8, 0)}), BODY),
        file(described({"0": {**floats(0, 8), "data_offsets": [-8, 0]}}), BODY),
        file(described({"0": {**floats(0, 8), "data_offsets": [0, 2**63]}}), BODY),
        file(described({"0": {**floats(0, 8), "shape": [2**62, 2]}}), BODY),
        file(described({"0": {**floats(0, 8), "shape": "x"}}), BODY),
        file(described({"0": {**floats(0, 8), "dtype": "os.system"}}), BODY),
        file(described({"0": [[]]}), BODY),
        file("[" * 100_000, BODY),
        file('{"__metadata__": ' + '{"a": ' * 50_000, BODY),
        file("[]", BODY),
        file("null", BODY),
        file(described({}), b""),
        file(described({"0": floats(0, 8)}, '{"tensor": "1"}'), BODY),
        file(described({"0": floats(0, 8)}, '{"tensor": "__metadata__"}'), BODY),
        file(described({"0": floats(0, 8)}, '{"dict": ' * 20_000), BODY),
        file(described({"0": floats(0, 8)}, "9" * 100_000), BODY),
        file(described({"0": floats(0, 8)}, '{"int": "' + "f" * 10 + '", "float": "1"}'), BODY),
        file('{"__metadata__": {"state": 5}, "0": ' + json.dumps(floats(0, 8)) + "}", BODY),
        file('{"__metadata__": 5, "0": ' + json.dumps(floats(0, 8)) + "}", BODY),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_a_lying_header_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="expected a safetensors file") as caught:
        decode(data)
    assert len(str(caught.value)) < 400


def test_keys_that_come_twice_are_no_way_around_the_checks() -> None:
    twice = GOOD[:-1] + ', "0": ' + json.dumps({**floats(0, 8), "shape": [2**40]}) + "}"
    with pytest.raises(CheckpointError):
        decode(file(twice, BODY))
    states = '"__metadata__": {"state": "{}"}, '
    with pytest.raises(CheckpointError):
        decode(file(GOOD[:-1] + ", " + states[:-2] + "}", BODY))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_any_damage_to_a_file_is_refused_or_harmless(data: st.DataObject) -> None:
    damaged = bytearray(encode(STATE))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        stop = data.draw(st.integers(start, min(start + 40, len(damaged))))
        damaged[start:stop] = data.draw(st.binary(max_size=40))
        if not damaged:
            break
    try:
        state = decode(bytes(damaged))
    except CheckpointError:
        return
    encode(state)  # what came out holds nothing but what may be in a state


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    state=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text() | st.integers(), inner)
        ),
        max_leaves=20,
    )
)
def test_every_state_is_restored(state: Any) -> None:
    assert repr(decode(encode(state))) == repr(state)
