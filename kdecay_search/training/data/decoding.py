"""Decodes image files into pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdecay_search.errors import DataError
from kdecay_search.training.data.dataset import Images

THREADS = 8
"""Largest number of threads that decode images."""


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
    """Open an image in RGB. Grey images get three equal channels; transparency is dropped.

    Raises:
        DataError: The file cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"image {path!r}: cannot be decoded: {reason}; fix or remove it") from None
