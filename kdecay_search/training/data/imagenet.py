"""ImageNet's layout: ``train/`` and ``val/`` with one folder of image files per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import Labels, Paths, StreamedDataset
from kdecay_search.training.data.held_out import HeldOutTestSet
from kdecay_search.training.data.image_folder import labels_of, list_images, list_test_images

LAYOUT = "it must hold one folder of images per class under train/"
TEST_LAYOUT = "a confirmation needs a test set: the same class folders under val/"


def imagenet(data: DataSpec) -> StreamedDataset:
    """List ImageNet's files. The training set is ``root/train``, the test set ``root/val``.

    Raises:
        DataError: The folder does not have this layout, or cannot be read.
    """
    root = Path(data.root or "")
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {LAYOUT}")
    folder = root / "train"
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: has no folder train; {LAYOUT}")
    samples, classes = list_images(folder, LAYOUT)
    paths, labels = _arrays(samples)

    def test() -> tuple[Paths, Labels]:
        return _arrays(list_test_images(root / "val", classes, TEST_LAYOUT))

    name = f"imagenet {str(root)!r}"
    return StreamedDataset(name, labels, len(classes), paths, HeldOutTestSet(test))


def _arrays(samples: Sequence[tuple[str, int]]) -> tuple[Paths, Labels]:
    paths = np.array([os.fsencode(path) for path, _ in samples], dtype=np.bytes_)
    return paths, labels_of(samples)
