"""Image folders: one folder of image files per class, decoded once and held in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import ImageFolder

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.cache import cached
from kdecay_search.training.data.dataset import ImageDataset, Images, Labels
from kdecay_search.training.data.decoding import decode_images
from kdecay_search.training.data.held_out import HeldOutTestSet

LAYOUT = "it must hold one folder of images per class, at its top or under train/"
TEST_LAYOUT = "a confirmation needs a test set: the same class folders under test/"
CACHE_VERSION = 2
"""Part of the cache's keys: to be raised when the same files shall give other pixels."""


def image_folder(data: DataSpec) -> ImageDataset:
    """Read an image folder.

    The training set is ``root/train``, or ``root`` itself if it has no such folder. The test set is
    ``root/test``.

    Raises:
        DataError: The folder does not have this layout, or cannot be read.
    """
    root = Path(data.root or "")
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {LAYOUT}")
    folder = root / "train" if (root / "train").is_dir() else root
    samples, classes = list_images(folder, LAYOUT)

    def decode(paths: Sequence[str]) -> Images:
        key = _cache_key(paths, data.image_size)
        return cached(key, lambda: decode_images(paths, data.image_size))

    def test() -> tuple[Images, Labels]:
        held_out = list_test_images(root / "test", classes, TEST_LAYOUT)
        return decode([path for path, _ in held_out]), labels_of(held_out)

    return ImageDataset(
        f"image folder {str(folder)!r}",
        labels_of(samples),
        len(classes),
        lambda chosen: decode([samples[index][0] for index in chosen]),
        HeldOutTestSet(test),
    )


def labels_of(samples: Sequence[tuple[str, int]]) -> Labels:
    """The class numbers (N,) of N pairs (path, class number)."""
    return np.array([label for _, label in samples], dtype=np.int64)


def list_images(folder: Path, layout: str) -> tuple[list[tuple[str, int]], list[str]]:
    """List the images of a folder of class folders.

    Args:
        folder: Holds one folder of images per class.
        layout: What would be right, for error messages.

    Returns:
        A pair (path, class number) for each image, sorted by class and path, and the classes'
        names.

    Raises:
        DataError: There is no class folder, a class has no image, or a folder cannot be read.
    """
    try:
        listing = ImageFolder(str(folder))
    except FileNotFoundError as error:
        # torchvision says which class folders are empty, or that there are none.
        reason = str(error).partition(" Supported")[0].rstrip(".")
        raise DataError(f"image folder {str(folder)!r}: {reason}; {layout}") from None
    except OSError as error:
        raise DataError(f"image folder {str(folder)!r}: cannot be read: {error.strerror}") from None
    return listing.samples, listing.classes


def list_test_images(folder: Path, classes: Sequence[str], layout: str) -> list[tuple[str, int]]:
    """List the images of a test set as :func:`list_images` does.

    Args:
        folder: The test set's folder.
        classes: The training set's classes, which the test set must have as well.
        layout: What would be right, for error messages.

    Raises:
        DataError: The folder is missing, has other classes, or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(folder.parent)!r}: has no {folder.name}/; {layout}")
    samples, found = list_images(folder, layout)
    if list(found) != list(classes):
        odd = sorted(set(found) ^ set(classes))
        raise DataError(f"image folder {str(folder)!r}: differs from train/ in {odd[:3]}; {layout}")
    return samples


def _cache_key(paths: Sequence[str], image_size: int | None) -> str:
    """A key that changes whenever a chosen file is another one or was written again."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, image_size]).encode())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise DataError(f"image {path!r}: cannot be read: {error.strerror}") from None
        digest.update(json.dumps([path, state.st_size, state.st_mtime_ns]).encode())
    return f"images-{digest.hexdigest()[:32]}"
