"""ImageNet's layout: ``train/`` and ``val/`` with one folder of image files per class."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.class_folders import list_test_set, list_training_set
from kdecay_search.training.data.dataset import Labels, Paths, StreamedDataset
from kdecay_search.training.data.held_out import HeldOutTestSet


def imagenet(data: DataSpec) -> StreamedDataset:
    """List ImageNet's files. The training set is ``root/train``, the test set ``root/val``.

    Raises:
        DataError: The folder does not have this layout, or cannot be read.
    """
    training = list_training_set(data)

    def test() -> tuple[Paths, Labels]:
        held_out = list_test_set(data, training)
        return _as_array(held_out.paths), held_out.labels

    return StreamedDataset(
        f"imagenet {data.root!r}",
        training.labels,
        training.class_names,
        _as_array(training.paths),
        HeldOutTestSet(test),
        training.not_used,
    )


def _as_array(paths: Sequence[str]) -> Paths:
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
