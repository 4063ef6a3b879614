"""Decodes image files into pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from kdecay_search.errors import DataError
from kdecay_search.training.data.dataset import Images

THREADS = 8
"""Largest number of threads that decode images."""
FEWEST_LEVELS = 32
"""Smallest number of levels, of 256, that a 16-bit image must span to be reduced to 8 bits: 12-bit
data in a 16-bit file spans 16."""
FORMATS_OF_16_BITS = ("PNG", "PPM")
"""Formats whose pixels are 16-bit where Pillow gives 32-bit whole numbers (mode I)."""
OPAQUE = 255
"""Alpha of a pixel that hides everything behind it."""


def decode_images(paths: Sequence[str], image_size: int | None) -> Images:
    """Decode image files into one array of colour images.

    Args:
        paths: The image files, at least one.
        image_size: Side (pixels) of the result. The shorter side of an image is scaled to it and
            the rest is cut off on both sides, so that shapes are not distorted. None keeps the
            images' own size, which must be the same for all.

    Returns:
        uint8 images (N, 3, H, W).

    Raises:
        DataError: A file cannot be decoded, or images differ in size.
    """
    first = _decode(paths[0], image_size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def place(index: int) -> None:
        image = _decode(paths[index], image_size)
        if image.shape != first.shape:
            (_, height, width), (_, first_height, first_width) = image.shape, first.shape
            raise DataError(
                f"image {paths[index]!r}: is {width} x {height} pixels, but {paths[0]!r} is "
                f"{first_width} x {first_height}; set task.data.image_size to resize all images"
            )
        images[index] = image

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(place, range(len(paths))):
            pass
    return images


def _decode(path: str, image_size: int | None) -> NDArray[np.uint8]:
    """Decode one image: uint8 (3, H, W)."""
    image = open_image(path)
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def open_image(path: str) -> Image.Image:
    """Open an image file in RGB with 8 bits per channel, as the file shows it.

    Grey images get three equal channels. Of 16 bits the upper 8 are taken. An alpha channel is
    dropped if it is opaque everywhere.

    Raises:
        DataError: The file cannot be decoded, or 8-bit RGB would not show what it holds: its pixels
            are numbers without a known white, or partly transparent, or of 16 bits but so alike
            that fewer than ``FEWEST_LEVELS`` of 256 levels would be left.
    """
    try:
        with Image.open(path) as file:
            return _to_rgb(file)
    except _NotShownByRgb as error:
        raise DataError(f"image {path!r}: {error}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"image {path!r}: cannot be decoded: {reason}; fix or remove it") from None


class _NotShownByRgb(Exception):
    """Why 8-bit RGB would not show what an image holds, and what to do."""


TRANSPARENT = (
    "is partly transparent, so its colours there are unknown; put it on a background colour and "
    "save it without transparency"
)


def _to_rgb(file: ImageFile.ImageFile) -> Image.Image:
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format in FORMATS_OF_16_BITS):
        return _upper_8_bits(file)
    if file.mode in ("I", "F"):
        kind = "whole" if file.mode == "I" else "floating-point"
        raise _NotShownByRgb(
            f"its pixels are 32-bit {kind} numbers, and which of them is white is unknown; "
            "convert it to 8 bits"
        )
    # Of 16-bit colours Pillow reads the upper 8 bits. Its raw mode says so before the pixels are
    # read, and nothing does afterwards.
    has_16_bits = ";16" in str([tile.args for tile in file.tile])
    if file.has_transparency_data:
        rgba = file.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != OPAQUE:
            raise _NotShownByRgb(TRANSPARENT)
        image = rgba.convert("RGB")
    else:
        image = file.convert("RGB")
    if has_16_bits:
        _check_levels(np.asarray(image))
    return image


def _upper_8_bits(file: ImageFile.ImageFile) -> Image.Image:
    """A 16-bit grey image in RGB."""
    values = np.asarray(file)
    transparent = file.info.get("transparency")
    if transparent is not None and (values == transparent).any():
        raise _NotShownByRgb(TRANSPARENT)
    upper, lower = (values >> 8).astype(np.uint8), (values & 255).astype(np.uint8)
    # An 8-bit image that was multiplied by 257 or by 256 loses nothing, however few its levels.
    if (upper != lower).any() and lower.any():
        _check_levels(upper)
    return Image.fromarray(upper).convert("RGB")


def _check_levels(pixels: NDArray[np.uint8]) -> None:
    """Refuse the upper 8 bits of a 16-bit image if they hold too little of it."""
    levels = int(pixels.max()) - int(pixels.min()) + 1
    if levels < FEWEST_LEVELS:
        raise _NotShownByRgb(
            f"its pixels have 16 bits, whose upper 8 span only {levels} of 256 levels; "
            "scale it to 8 bits so that its brightest value becomes 255"
        )
