import enum
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from optuna_hypergrad.checkpoints import CheckpointError, check, decode, encode

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the bit, in values and types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(
            same(one[key], other[key]) for key in one
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and raw(one) == raw(other)
    if isinstance(one, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, set | frozenset):
        return one == other and Counter(map(type, one)) == Counter(map(type, other))
    return repr(one) == repr(other)  # distinguishes NaN from 0 and -0.0 from 0.0


def raw(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def random_state(rng: random.Random, depth: int) -> Any:
    leaves = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-(2**70), 2**70),
        lambda: rng.choice([0.0, -0.0, 1e-320, 1 / 3, math.nan, math.inf, -math.inf]),
        lambda: rng.choice(["", "tensor", "日本\0\n\"'", "\ud800", "{}"]),
        lambda: torch.randn([rng.randrange(4) for _ in range(rng.randrange(4))]),
        lambda: torch.randint(0, 99, (3,)).to(rng.choice([torch.bool, torch.uint16, torch.int8])),
        lambda: np.array(rng.random(), dtype=rng.choice(["f2", "f4", "f8", "u8", "?"])),
    ]
    nests = [
        lambda n: [random_state(rng, depth - 1) for _ in range(n)],
        lambda n: tuple(random_state(rng, depth - 1) for _ in range(n)),
        lambda n: {rng.choice([i, str(i), -i]): random_state(rng, depth - 1) for i in range(n)},
    ]
    if depth and rng.random() < 0.8:
        return rng.choice(nests)(rng.randrange(5))
    return rng.choice(leaves)()


def test_nested_states_are_decoded_to_the_bit() -> None:
    rng = random.Random(0)
    for _ in range(300):
        state = random_state(rng, depth=4)
        assert same(decode(encode(state)), state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_all_dtypes_are_decoded(dtype: torch.dtype) -> None:
    state = [torch.arange(6).reshape(2, 3).to(dtype), torch.ones(()).to(dtype)]
    for stored, tensor in zip(decode(encode(state)), state, strict=True):
        assert stored.dtype == dtype and stored.shape == tensor.shape
        assert raw(stored) == raw(tensor)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "?", "i1", "i8", "u1", "u2", "u4", "u8"])
def test_arrays_of_all_dtypes_are_decoded(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    state = [array, array.T, array[::-1, ::2], np.ones((), dtype), array[:0]]
    assert same(decode(encode(state)), state)


def test_tensors_of_any_memory_layout_are_decoded() -> None:
    tensor = torch.randn(4, 3, 2, 5)
    views = [
        tensor.mT,
        tensor[1:, ::2],
        tensor[0, 0, 0].expand(3, 5),
        tensor.to(memory_format=torch.channels_last),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.empty(0),
        torch.empty(3, 0, dtype=torch.bool),
        tensor,
    ]
    stored = decode(encode(views))
    assert all(torch.equal(a, b) for a, b in zip(stored, views, strict=True))
    assert all(a.is_contiguous() for a in stored)
    stored[-1].zero_()  # writable, and shares nothing
    assert torch.equal(stored[0], tensor.mT)


def test_tied_parameters_are_decoded_as_plain_tensors_of_equal_values() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    stored = decode(encode(dict(model.named_parameters(remove_duplicate=False))))
    assert torch.equal(stored["0.weight"], stored["1.weight"])
    assert all(type(t) is torch.Tensor and not t.requires_grad for t in stored.values())
    assert model.load_state_dict(decode(encode(model.state_dict()))) is not None


class Level(enum.IntEnum):
    HIGH = 3


class Colour(str, enum.Enum):
    RED = "red"


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(1 / 3), 1 / 3),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16("nan"), math.nan),
        (np.int64(-(2**63)), -(2**63)),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("日本"), "日本"),
        (np.complex64(1 - 2j), 1 - 2j),
        (complex(math.nan, -math.inf), complex(math.nan, -math.inf)),
        (Level.HIGH, 3),
        (Colour.RED, "red"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(int, {"b": 1, 2: np.float64(0.5)}), {"b": 1, 2: 0.5}),
        (MappingProxyType({np.int64(3): 1, np.str_("a"): 2}), {3: 1, "a": 2}),
        (deque([1, (2, np.int8(3))], maxlen=5), [1, (2, 3)]),
        (Pair(1, Pair(2, 3)), (1, (2, 3))),
        (torch.Size([1, 2]), (1, 2)),
        ({3, 1, "a"}, {1, 3, "a"}),
        (frozenset([(1, 2), None]), frozenset([(1, 2), None])),
        ({frozenset({1, 2}), frozenset()}, {frozenset({1, 2}), frozenset()}),
        ({(1, frozenset({2}))}, {(1, frozenset({2}))}),
    ],
    # Sets print in another order in each process, and the workers of a run must agree on names.
    ids=lambda value: type(value).__name__,
)
def test_numbers_and_containers_of_all_kinds_are_decoded_as_pythons(value: Any, plain: Any) -> None:
    assert same(decode(encode({"model": [value]})), {"model": [plain]})
    check({"model": [value]})


def test_a_set_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import sys; from optuna_hypergrad.checkpoints import encode;"
        "sys.stdout.buffer.write(encode({'seen': {*'abcdefghijklmnopqrstuvwxyz'}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == encode({"seen": {*"abcdefghijklmnopqrstuvwxyz"}})


def test_equal_states_give_equal_bytes() -> None:
    state = {"a": [torch.ones(3), torch.zeros(2, dtype=torch.int64)], "b": np.ones(3)}
    assert encode(state) == encode(state)


def test_ints_of_any_size_are_decoded() -> None:
    for number in (2**63 - 1, 2**63, -(2**63), 10**10_000):
        assert decode(encode(number)) == number


@pytest.mark.parametrize(
    "value, kind",
    [
        (b"bytes", "<class 'bytes'>"),
        (Decimal(1), "<class 'decimal.Decimal'>; convert it to a number, string"),
        (Path("a"), "Path'>; convert it to a number, string"),
        (range(3), "<class 'range'>; convert it to a number, string, tensor, list"),
        (np.longdouble(1), "<class 'numpy.longdouble'>"),
        (np.datetime64("2020-01-01", "ns"), "<class 'numpy.datetime64'>"),
        (np.timedelta64(1, "ns"), "<class 'numpy.timedelta64'>"),
        (torch.float32, "<class 'torch.dtype'>"),
        (nn.Linear(1, 1), "Linear'>"),
        (print, "<class 'builtin_function_or_method'>"),
        (torch.ones(1, dtype=torch.complex128), "of torch.complex128"),
        (torch.ones(2, device="meta"), "on meta"),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (np.array([None]), r"of dtype\('O'\)"),
        (np.array(["a"]), r"of dtype\('<U1'\)"),
        (np.ones(1, ">f4"), r"of dtype\('>f4'\)"),
        (np.ones(1, [("a", "f4")]), "of dtype"),
        (np.ma.masked_array([1.0]), "MaskedArray"),
    ],
)
def test_a_value_that_cannot_be_stored_is_named_by_its_path(value: Any, kind: str) -> None:
    for refuse in (encode, check):
        with pytest.raises(TypeError, match=rf"^model\.3\.layer: cannot store .*{kind}"):
            refuse({"model": {3: {"layer": value}}})
    with pytest.raises(TypeError, match=r"^1\.0: cannot store"):
        encode([1, (value,)])
    with pytest.raises(TypeError, match=r"^state: cannot store"):
        encode(value)


@pytest.mark.parametrize("key", [1.0, None, True, (1,)])
def test_keys_that_cannot_be_stored_are_refused(key: Any) -> None:
    with pytest.raises(TypeError, match=r"^a: a key must be a str or an int, got <class"):
        encode({"a": {key: 1}})


def test_a_state_that_contains_itself_is_refused() -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(TypeError, match="contains itself"):
        encode(state)


def test_a_structure_beyond_the_limit_of_safetensors_is_refused() -> None:
    with pytest.raises(CheckpointError, match="header too large"):
        encode("x" * 101_000_000)


def crafted(structure: str) -> bytes:
    return save({"0": torch.ones(2), "1": torch.ones(2).bfloat16()}, {"state": structure})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"\0" * 100,
        b"\xff" * 100,
        pickle.dumps({"weights": [1.0] * 100}),
        encode([torch.ones(9)])[:-1],
        encode([torch.ones(9)]) + b"\0",
        save({"a": torch.ones(2)}),
        save({"a": torch.ones(2)}, {"other": "{}"}),
        crafted(""),
        crafted("not JSON"),
        crafted("[" * 1_000_000),
        crafted("[" * 100_000 + "]" * 100_000),
        crafted("[" * 700 + "]" * 700),
        crafted("9" * 10_000),
        crafted("{}"),
        crafted('{"call": "os.system"}'),
        crafted('{"tensor": "0", "array": "0"}'),
        crafted('{"tensor": "2"}'),
        crafted('{"tensor": ["0"]}'),
        crafted('{"tensor": null}'),
        crafted('{"array": "1"}'),
        crafted('{"dict": [[1.5, 0]]}'),
        crafted('{"dict": [[["a"], 0]]}'),
        crafted('{"dict": [["a"]]}'),
        crafted('{"dict": 1}'),
        crafted('{"tuple": 1}'),
        crafted('{"set": 1}'),
        crafted('{"set": [[]]}'),
        crafted('{"complex": "os.system"}'),
        crafted('{"complex": []}'),
        crafted('{"int": 5}'),
        crafted('{"int": "five"}'),
        crafted('{"float": []}'),
        crafted('{"float": "five"}'),
    ],
    ids=repr,
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=f"expected a safetensors file .* {len(data)} bytes"):
        decode(data)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F8_E8M0", "shape": [0], "data_offsets": [0, 0]},
        {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]},
    ],
    ids=repr,
)
def test_a_header_that_describes_no_tensor_is_refused(tensor: Any) -> None:
    header = json.dumps({"__metadata__": {"state": '{"tensor": "0"}'}, "0": tensor}).encode()
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        decode(len(header).to_bytes(8, "little") + header)


def test_no_byte_of_the_header_can_raise_another_error() -> None:
    data = encode({"a": torch.ones(2), 1: (np.ones(1), math.nan, 2**64)})
    refused = 0
    for position in range(8 + int.from_bytes(data[:8], "little")):
        for flip in (1, 4, 64):
            damaged = bytearray(data)
            damaged[position] ^= flip
            try:
                decode(bytes(damaged))
            except CheckpointError:
                refused += 1
    assert refused > 100


def test_a_counter_is_decoded_as_one() -> None:
    scheduler = torch.optim.lr_scheduler.MultiStepLR(
        torch.optim.SGD([torch.zeros(1)], lr=0.1), milestones=[3, 5, 5]
    )
    found = decode(encode(scheduler.state_dict()))
    assert type(found["milestones"]) is Counter
    assert found == scheduler.state_dict()


class Listed(list):  # type: ignore[type-arg]
    """A hashable list; it is decoded as a plain one, which no set can hold."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "kind"),
    [({Listed()}, "list"), ({(1, Listed())}, "list"), (frozenset([Listed()]), "list")],
)
def test_set_items_that_decode_to_something_unhashable_are_refused(value: Any, kind: str) -> None:
    for refuse in (check, encode):
        with pytest.raises(TypeError, match=rf"^best\.seen: .*Listed.* is decoded as a {kind};"):
            refuse({"best": {"seen": value}})


def test_every_state_that_passes_the_check_is_decoded() -> None:
    rng = random.Random(0)

    def hashable(depth: int) -> Any:
        items = [hashable(depth - 1) for _ in range(rng.randrange(3))] if depth else []
        return rng.choice([rng.random(), "a", None, tuple(items), frozenset(items)])

    for _ in range(300):
        state = {"seen": {hashable(3) for _ in range(4)}}
        check(state)
        assert decode(encode(state)) == state
