"""What a data set offers: the labels of its training set, its images or their paths, a test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdecay_search.training.data.held_out import HeldOutTestSet

Images = NDArray[np.uint8]
"""Images (N, C, H, W)."""
Labels = NDArray[np.int64]
"""Class numbers (N,), from 0."""
Indices = NDArray[np.int64]
"""Positions (N,) in a data set's training set."""
Paths = NDArray[np.bytes_]
"""Paths (N,) as the file system spells them; a million of them take little memory in an array."""


@dataclass(frozen=True)
class ImageDataset:
    """A data set that fits in memory. Its images are decoded when a subset is chosen."""

    name: str
    """The data set as messages name it."""
    labels: Labels
    """Class numbers (N,) of the training set."""
    class_names: Sequence[str]
    """Names of the classes, by class number."""
    decode: Callable[[Indices], Images]
    """Gives the training images at these positions, in this order, all of one size."""
    test_set: HeldOutTestSet[tuple[Images, Labels]]
    """Images and labels of the test set, for a confirmation."""
    paths: Sequence[str] | None = None
    """Image files of the training set; None if the images do not come as files."""
    not_used: Sequence[str] = ()
    """What was found in the data set's folder and is not used, for the log."""


@dataclass(frozen=True)
class StreamedDataset:
    """A data set that is too large for memory. Its image files are decoded while training."""

    name: str
    """The data set as messages name it."""
    labels: Labels
    """Class numbers (N,) of the training set."""
    class_names: Sequence[str]
    """Names of the classes, by class number."""
    paths: Paths
    """Image files (N,) of the training set."""
    test_set: HeldOutTestSet[tuple[Paths, Labels]]
    """Image files and labels of the test set, for a confirmation."""
    not_used: Sequence[str] = ()
    """What was found in the data set's folder and is not used, for the log."""


AnyDataset = ImageDataset | StreamedDataset
"""What the readers of data sets return."""
