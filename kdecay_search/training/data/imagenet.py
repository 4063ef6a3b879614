"""ImageNet's layout: train/ and val/ with one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.folder import labels_of, listed, listed_test
from kdecay_search.training.data.sealed import Sealed
from kdecay_search.training.data.source import FileSource, Labels, Paths

LAYOUT = "it must hold one folder of images per class under train/"
TEST_LAYOUT = "a confirmation needs a test part: the same class folders under val/"


def imagenet(data: DataSpec) -> FileSource:
    """The images under ``root/train``; ``root/val`` is the test part."""
    root = Path(data.root or "")
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {LAYOUT}")
    folder = root / "train"
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: has no folder train; {LAYOUT}")
    samples, classes = listed(folder, LAYOUT)
    paths, labels = _arrays(samples)

    def test() -> tuple[Paths, Labels]:
        return _arrays(listed_test(root / "val", classes, TEST_LAYOUT))

    return FileSource(f"imagenet {str(root)!r}", labels, len(classes), paths, Sealed(test))


def _arrays(samples: Sequence[tuple[str, int]]) -> tuple[Paths, Labels]:
    paths = np.array([os.fsencode(path) for path, _ in samples], dtype=np.bytes_)
    return paths, labels_of(samples)
