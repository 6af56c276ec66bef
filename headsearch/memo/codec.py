"""Arrays as msgpack: [format, dtype, shape, bytes]. Nothing is ever unpickled."""

from __future__ import annotations

import math

import msgpack

from headsearch.errors import MemoError

FORMAT = 1
SIZES = {"float16": 2, "float32": 4, "float64": 8}


def pack_array(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Return the bytes that `unpack_array` reads back.

    Args:
        dtype: a name in `SIZES`.
        shape: sizes of the axes.
        data: the elements in C order, little-endian.
    """
    return bytes(msgpack.packb([FORMAT, dtype, list(shape), data]))


def unpack_array(value: bytes) -> tuple[str, tuple[int, ...], bytes]:
    """Return (dtype, shape, data).

    Raises:
        MemoError: the bytes are not exactly what `pack_array` writes.
    """
    try:
        number, dtype, shape, data = msgpack.unpackb(value)
    except Exception as error:  # msgpack raises many kinds
        raise MemoError(f"a memo value is not a packed array: {error}") from None
    good = (
        number == FORMAT
        and dtype in SIZES
        and isinstance(shape, list)
        and all(isinstance(n, int) and n >= 0 for n in shape)
        and isinstance(data, bytes)
        and len(data) == SIZES[dtype] * math.prod(shape)
    )
    if not good:
        raise MemoError("a memo value is not a packed array: its parts disagree")
    return dtype, tuple(shape), data
