"""Arrays as msgpack: [format, dtype, shape, bytes]. Nothing is ever unpickled.

Arrays of examples that are not those of whole batches say which they are:
[format of these, dtype, shape, places as int32, bytes].
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgpack

from headsearch.errors import MemoError

FORMAT = 1
FORMAT_OF_ROWS = 2
SIZES = {"float16": 2, "float32": 4, "float64": 8}


def pack_array(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Return the bytes that `unpack_array` reads back.

    Args:
        dtype: a name in `SIZES`.
        shape: sizes of the axes.
        data: the elements in C order, little-endian.

    Raises:
        MemoError: they disagree. What is stored first stays, so nothing unreadable may be stored.
    """
    header, size = _header(dtype, shape)
    if header is None or len(data) != size:
        raise MemoError(
            f"an array's data must fit its dtype, one of {', '.join(SIZES)}, and its shape but got "
            f"{len(data)} bytes for {dtype} {shape}"
        )
    return header + data


def array_head(dtype: str, shape: tuple[int, ...], rows: bytes | None = None) -> bytes:
    """Return what `pack_array` puts before the data.

    Args:
        dtype, shape: as there.
        rows: which examples it is of, if not those of whole batches.

    Raises:
        MemoError: there is no such array.
    """
    head, size = _header(dtype, shape)
    if head is None:
        raise MemoError(f"an array must be of {', '.join(SIZES)} but is {dtype} {shape}")
    if rows is None:
        return head
    whole = bytes(msgpack.packb([FORMAT_OF_ROWS, dtype, list(shape), rows, bytes(size)]))
    return whole[: len(whole) - size]


def unpack_array(value: bytes) -> tuple[str, tuple[int, ...], bytes | None, bytes]:
    """Return (dtype, shape, which examples it is of or None, data).

    Raises:
        MemoError: the bytes are not exactly what `array_head` and data make.
    """
    try:
        parts = msgpack.unpackb(value)
    except Exception as error:  # msgpack raises many kinds
        raise MemoError(f"a memo value is not a packed array: {error}") from None
    if not isinstance(parts, list) or len(parts) not in (4, 5):
        raise MemoError("a memo value is not a packed array: it must have four parts or five")
    expected = FORMAT if len(parts) == 4 else FORMAT_OF_ROWS
    if not _is_whole(parts[0]) or parts[0] != expected:
        raise MemoError(f"a packed array must be of format {FORMAT} but is of format {parts[0]!r}")
    dtype, shape, rows, data = parts[1], parts[2], parts[3] if len(parts) == 5 else None, parts[-1]
    if not _agree(dtype, shape, data):
        raise MemoError("a memo value is not a packed array: its parts disagree")
    if rows is not None and not (shape and isinstance(rows, bytes) and len(rows) == 4 * shape[0]):
        raise MemoError("a memo value is not a packed array: its parts disagree")
    return dtype, tuple(shape), rows, data


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> tuple[bytes | None, int]:
    """Return what comes before the data, and their size; None: there is no such array."""
    data = bytes(SIZES.get(dtype, 0) * math.prod(shape)) if min(shape, default=0) >= 0 else b""
    if not _agree(dtype, list(shape), data):
        return None, 0
    whole = bytes(msgpack.packb([FORMAT, dtype, list(shape), data]))
    return whole[: len(whole) - len(data)], len(data)


def _agree(dtype: object, shape: object, data: object) -> bool:
    return (
        isinstance(dtype, str)
        and dtype in SIZES
        and isinstance(shape, list)
        and all(_is_whole(n) and n >= 0 for n in shape)
        and isinstance(data, bytes)
        and len(data) == SIZES[dtype] * math.prod(shape)
    )


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
