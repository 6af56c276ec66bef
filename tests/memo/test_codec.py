"""Arrays survive packing, and nothing but a packed array is ever taken for one."""

from __future__ import annotations

import math
import pickle

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsearch.errors import MemoError
from headsearch.memo.codec import array_head, pack_array, unpack_array

BYTES = {"float16": 2, "float32": 4, "float64": 8}
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(dtype=st.sampled_from(sorted(BYTES)), shape=SHAPES, data=st.data())
def test_an_array_survives(dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    size = BYTES[dtype] * math.prod(shape)
    content = data.draw(st.binary(min_size=size, max_size=size))
    assert unpack_array(pack_array(dtype, shape, content)) == (dtype, shape, None, content)


def test_the_layout_is_the_one_that_is_written_down() -> None:
    # msgpack's own specification: fixarray 4, fixint 1, fixstr 7, fixarray 2 of fixints, bin8.
    expected = b"\x94\x01\xa7float32\x92\x01\x02\xc4\x08" + b"\x00\x00\x80\x3f" * 2
    assert pack_array("float32", (1, 2), b"\x00\x00\x80\x3f" * 2) == expected


GOOD = [1, "float32", [1, 2], b"12345678"]


@pytest.mark.parametrize(
    "parts",
    [
        [2, *GOOD[1:]],
        [True, *GOOD[1:]],
        [1.0, *GOOD[1:]],
        [1, "int32", *GOOD[2:]],
        [1, "object", *GOOD[2:]],
        [1, b"float32", *GOOD[2:]],
        [1, ["float32"], *GOOD[2:]],
        [1, "float32", [1, 3], b"12345678"],
        [1, "float32", [-1, -2], b"12345678"],
        [1, "float32", [True, 2], b"12345678"],
        [1, "float32", [1.0, 2], b"12345678"],
        [1, "float32", 2, b"12345678"],
        [1, "float32", [2**60, 2**60], b"12345678"],
        [1, "float32", [1, 2], "12345678"],
        [1, "float32", [1, 2], b"1234567"],
        GOOD[:3],
        [*GOOD, 0],
        {"dtype": "float32"},
        {1: 1, 2: 2, 3: 3, 4: 4},
        "four",
        7,
        None,
    ],
    ids=repr,
)
def test_other_msgpack_is_refused(parts: object) -> None:
    with pytest.raises(MemoError):
        unpack_array(msgpack.packb(parts))


@pytest.mark.parametrize(
    "value",
    [b"", b"\xc1", msgpack.packb(GOOD)[:-1], msgpack.packb(GOOD) + b"\x00", pickle.dumps(GOOD)],
    ids=["empty", "never used code", "cut short", "something after it", "pickle"],
)
def test_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(MemoError):
        unpack_array(value)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_with_a_memo_error(value: bytes) -> None:
    with pytest.raises(MemoError):  # none this short and random is a packed array
        unpack_array(value)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [("bfloat16", (1,), b"12"), ("float32", (2,), b"1234"), ("float32", (-1,), b"")],
)
def test_what_could_not_be_read_back_is_not_packed(
    dtype: str, shape: tuple[int, ...], data: bytes
) -> None:
    with pytest.raises(MemoError, match="data must fit its dtype"):
        pack_array(dtype, shape, data)


def test_arrays_of_single_examples_say_which() -> None:
    data, rows = np.arange(6, dtype="<f4").tobytes(), np.array([7, 2, 5], "<i4").tobytes()
    value = array_head("float32", (3, 2), rows) + data
    assert unpack_array(value) == ("float32", (3, 2), rows, data)
    assert unpack_array(pack_array("float32", (3, 2), data)) == ("float32", (3, 2), None, data)
    for wrong in (
        msgpack.packb([2, "float32", [3, 2], rows[:-4], data]),
        msgpack.packb([2, "float32", [3, 2], rows + rows[:4], data]),
        msgpack.packb([2, "float32", [3, 2], "rows", data]),
        msgpack.packb([1, "float32", [3, 2], rows, data]),
        msgpack.packb([2, "float32", [3, 2], data]),
        msgpack.packb([2, "float32", [], b"", data[:4]]),
    ):
        with pytest.raises(MemoError, match="packed array"):
            unpack_array(wrong)


@pytest.mark.parametrize(("dtype", "shape"), [("int32", (3, 2)), ("float32", (3, -2))])
@pytest.mark.parametrize("rows", [None, bytes(12)])
def test_what_is_no_array_has_no_head(
    dtype: str, shape: tuple[int, ...], rows: bytes | None
) -> None:
    with pytest.raises(MemoError, match="an array must be of float16, float32, float64 but is "):
        array_head(dtype, shape, rows)
