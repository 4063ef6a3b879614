"""ImageNet's layout: train/ and val/ with one folder of images per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.spec import DataSpec
from kdecay_search.training.data.folder import listed
from kdecay_search.training.data.source import FileSource

LAYOUT = "it must hold one folder of images per class under train/"


def imagenet(data: DataSpec) -> FileSource:
    """The images under ``root/train``. ``root/val`` is the test part: it is not opened."""
    root = Path(data.root or "")
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {LAYOUT}")
    folder = root / "train"
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: has no folder train; {LAYOUT}")
    samples, classes = listed(folder, LAYOUT)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    paths = np.array([os.fsencode(path) for path, _ in samples], dtype=np.bytes_)
    return FileSource(f"imagenet {str(root)!r}", labels, classes, paths)
