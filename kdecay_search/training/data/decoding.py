"""Image files to pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdecay_search.errors import DataError
from kdecay_search.training.data.source import Images

THREADS = 8


def decoded(paths: Sequence[str], image_size: int | None) -> Images:
    """The images in colour; all must have one size, which ``image_size`` (pixels a side) gives."""
    first = _image(paths[0], image_size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def place(index: int) -> None:
        image = _image(paths[index], image_size)
        if image.shape != first.shape:
            raise DataError(
                f"image {paths[index]!r}: is {_size(image)} pixels, but {paths[0]!r} is "
                f"{_size(first)}; set task.data.image_size to bring all to one size"
            )
        images[index] = image

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(place, range(len(paths))):
            pass
    return images


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def _image(path: str, image_size: int | None) -> NDArray[np.uint8]:
    """One image as (3, H, W)."""
    picture = opened(path)
    if image_size is not None:
        # The shorter side is scaled to fit and the middle cut out: shapes are not distorted.
        size = (image_size, image_size)
        picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def opened(path: str) -> Image.Image:
    """The image in colour. Grey ones get three equal channels; transparency is dropped."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"image {path!r}: cannot be decoded: {reason}; mend or remove it") from None
