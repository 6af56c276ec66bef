"""Arrays as msgpack: [format, dtype, shape, bytes]. Nothing is ever unpickled."""

from __future__ import annotations

import math
from functools import lru_cache

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


def array_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what `pack_array` puts before the data.

    Raises:
        MemoError: there is no such array.
    """
    head, _ = _header(dtype, shape)
    if head is None:
        raise MemoError(f"an array must be of {', '.join(SIZES)} but is {dtype} {shape}")
    return head


def unpack_array(value: bytes) -> tuple[str, tuple[int, ...], bytes]:
    """Return (dtype, shape, data).

    Raises:
        MemoError: the bytes are not exactly what `pack_array` writes.
    """
    try:
        parts = msgpack.unpackb(value)
    except Exception as error:  # msgpack raises many kinds
        raise MemoError(f"a memo value is not a packed array: {error}") from None
    if not isinstance(parts, list) or len(parts) != 4:
        raise MemoError("a memo value is not a packed array: it must have four parts")
    number, dtype, shape, data = parts
    if not _is_whole(number) or number != FORMAT:
        raise MemoError(f"a packed array must be of format {FORMAT} but is of format {number!r}")
    if not _agree(dtype, shape, data):
        raise MemoError("a memo value is not a packed array: its parts disagree")
    return dtype, tuple(shape), data


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
