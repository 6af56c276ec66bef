"""Images and their labels, as batches of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headsearch.errors import DataError, InputError, ModelError
from headsearch.task.batches import Batch, BatchedData, labels_of, readout_of, round_of
from headsearch.task.data import Examples

# Examples of a batch: an image is as much work as hundreds of tokens.
BATCH_IMAGES = 16
# Pillow's modes of images with so many channels.
MODES = {1: "L", 3: "RGB"}


def images_of(values: Sequence[Any], column: str) -> list[np.ndarray]:
    """Return images as arrays, (height, width, 3) uint8.

    Args:
        values: images as `datasets` or PIL give them, arrays of such a shape, or paths of files.
        column: where they come from, for errors.

    Raises:
        InputError: Pillow is not installed.
        DataError: one is no image.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError(
            "images are read by Pillow, which is not installed: pip install 'headsearch[vision]'"
        ) from None
    found = []
    for row, value in enumerate(values):
        try:
            if isinstance(value, (str, Path)):
                with Image.open(value) as opened:
                    picture = opened.convert("RGB")
            elif hasattr(value, "convert"):
                picture = value.convert("RGB")
            else:
                picture = Image.fromarray(_bytes(np.asarray(value))).convert("RGB")
        except (
            OSError,
            UnidentifiedImageError,
            Image.DecompressionBombError,  # of a size that no image has, as of a damaged header
            TypeError,
            ValueError,
            IndexError,
        ) as error:
            raise DataError(
                f"column {column!r} must hold images or paths of image files but row {row} is of "
                f"type {type(value).__name__}: {error}"
            ) from None
        found.append(np.asarray(picture))
    return found


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Return whole numbers from 0 to 255 as bytes.

    Raises:
        ValueError: they are others.
    """
    whole = np.issubdtype(pixels.dtype, np.integer)
    if not whole or (pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255):
        raise ValueError(
            "arrays must hold whole numbers from 0 to 255 but this one holds "
            + (f"{pixels.min()} to {pixels.max()}" if whole and pixels.size else f"{pixels.dtype}")
        )
    return pixels.astype(np.uint8)


def mode_of(channels: int) -> str:
    """Return Pillow's mode of the images that a model with so many channels reads.

    Raises:
        ModelError: there is none.
    """
    if channels not in MODES:
        raise ModelError(
            "a model of images must read 1 channel or 3 but its `config.num_channels` is "
            f"{channels}"
        )
    return MODES[channels]


def _in_mode(image: np.ndarray, mode: str) -> np.ndarray:
    """Return a coloured image in a mode of Pillow's, (height, width, channels) uint8."""
    from PIL import Image  # is there where there are images

    return np.atleast_3d(np.asarray(Image.fromarray(image).convert(mode)))


def batch_images(
    examples: Examples, processor: Any, channels: int = 3, batch_images: int = BATCH_IMAGES
) -> BatchedData:
    """Have a model's image processor make pixels of images, once, and batch them.

    Args:
        examples: images and labels.
        processor: a transformers image processor.
        channels: that the model reads: of 1, images are made grey.
        batch_images: most images of one batch.

    Raises:
        ModelError: no images have so many channels.
        InputError: the processor takes no such images, or makes images of different sizes.
    """
    mode = mode_of(channels)
    count = len(examples)
    starts = range(0, count, batch_images)
    # Every round is a fair sample of all places.
    order = sorted(range(len(starts)), key=lambda i: (round_of(i), i))
    groups = [np.arange(starts[i], min(starts[i] + batch_images, count)) for i in order]
    batches = []
    for group in groups:
        images = [_in_mode(examples.texts[i], mode) for i in group]
        try:
            made = processor(images, return_tensors="np")
        except ValueError as error:
            raise InputError(
                f"the image processor must take images of {channels} channels, as the model reads "
                f"them, but: {error}"
            ) from None
        pixels = np.ascontiguousarray(made["pixel_values"], dtype=np.float32)
        if pixels.ndim != 4 or pixels.shape[1] != channels:
            raise InputError(
                f"the image processor must make pixels (images, {channels} channels, height, "
                f"width) but made {pixels.shape}"
            )
        batches.append(Batch({"pixel_values": pixels}, readout_of(examples, None, group)))
    sizes = {batch.arrays["pixel_values"].shape[1:] for batch in batches}
    if len(sizes) > 1:
        raise InputError(f"the image processor must make images of one size but made {sizes}")
    sources = np.concatenate(groups)
    return BatchedData(tuple(batches), labels_of(examples, None, sources), sources)
