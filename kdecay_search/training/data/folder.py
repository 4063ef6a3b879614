"""Image folders: one folder of images per class, decoded once."""

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
from kdecay_search.training.data.cache import through_cache
from kdecay_search.training.data.decoding import decoded
from kdecay_search.training.data.sealed import Sealed
from kdecay_search.training.data.source import Images, Labels, Source

LAYOUT = "it must hold one folder of images per class, at its top or under train/"
TEST_LAYOUT = "a confirmation needs a test part: the same class folders under test/"
CACHE_VERSION = 1
"""Part of the cache's key: raise it when the same files shall give other pixels."""


def image_folder(data: DataSpec) -> Source:
    """The images under ``root/train``, or under ``root`` where there is no such folder; the test
    part is ``root/test``."""
    root = Path(data.root or "")
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {LAYOUT}")
    folder = root / "train" if (root / "train").is_dir() else root
    samples, classes = listed(folder, LAYOUT)

    def decode(paths: Sequence[str]) -> Images:
        return through_cache(_key(paths, data.image_size), lambda: decoded(paths, data.image_size))

    def test() -> tuple[Images, Labels]:
        held_out = listed_test(root / "test", classes, TEST_LAYOUT)
        return decode([path for path, _ in held_out]), labels_of(held_out)

    return Source(
        f"image folder {str(folder)!r}",
        labels_of(samples),
        len(classes),
        lambda chosen: decode([samples[index][0] for index in chosen]),
        Sealed(test),
    )


def labels_of(samples: Sequence[tuple[str, int]]) -> Labels:
    return np.array([label for _, label in samples], dtype=np.int64)


def listed_test(folder: Path, classes: Sequence[str], layout: str) -> list[tuple[str, int]]:
    """As :func:`listed`, of a test part, which must have the training part's classes."""
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(folder.parent)!r}: has no {folder.name}/; {layout}")
    samples, found = listed(folder, layout)
    if list(found) != list(classes):
        odd = sorted(set(found) ^ set(classes))
        raise DataError(f"image folder {str(folder)!r}: differs from train/ in {odd[:3]}; {layout}")
    return samples


def listed(folder: Path, layout: str) -> tuple[list[tuple[str, int]], list[str]]:
    """(path, label) of every image, sorted by class and name, and the classes' names.

    ``layout``: what would be right, for messages.
    """
    try:
        listing = ImageFolder(str(folder))
    except FileNotFoundError as error:
        # torchvision's own words: which class folders are empty, or that there are none.
        reason = str(error).partition(" Supported")[0].rstrip(".")
        raise DataError(f"image folder {str(folder)!r}: {reason}; {layout}") from None
    except OSError as error:
        raise DataError(f"image folder {str(folder)!r}: cannot be read: {error.strerror}") from None
    return listing.samples, listing.classes


def _key(paths: Sequence[str], image_size: int | None) -> str:
    """Changes whenever a chosen file is another one or was written again."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, image_size]).encode())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise DataError(f"image {path!r}: cannot be read: {error.strerror}") from None
        digest.update(json.dumps([path, state.st_size, state.st_mtime_ns]).encode())
    return f"images-{digest.hexdigest()[:32]}"
