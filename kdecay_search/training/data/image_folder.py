"""Image folders: one folder of image files per class, decoded once and held in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.cache import cached
from kdecay_search.training.data.class_folders import list_test_set, list_training_set
from kdecay_search.training.data.dataset import ImageDataset, Images, Labels
from kdecay_search.training.data.decoding import decode_images
from kdecay_search.training.data.held_out import HeldOutTestSet

CACHE_VERSION = 2
"""Part of the cache's keys: to be raised when the same files shall give other pixels."""


def image_folder(data: DataSpec) -> ImageDataset:
    """Read an image folder.

    The training set is ``root/train`` or ``root`` itself, and the test set ``root/test``; see
    :func:`kdecay_search.training.data.class_folders.find_layout`.

    Raises:
        DataError: The folder does not have this layout, or cannot be read.
    """
    training = list_training_set(data)

    def decode(paths: Sequence[str]) -> Images:
        key = _cache_key(paths, data.image_size)
        return cached(key, lambda: decode_images(paths, data.image_size))

    def test() -> tuple[Images, Labels]:
        held_out = list_test_set(data, training)
        return decode(held_out.paths), held_out.labels

    return ImageDataset(
        f"image folder {str(training.folder)!r}",
        training.labels,
        training.class_names,
        lambda chosen: decode([training.paths[index] for index in chosen]),
        HeldOutTestSet(test),
        training.paths,
        training.not_used,
    )


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
