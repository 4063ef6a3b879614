"""What a data set offers: the labels of its training set, its images or their paths, a test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

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
    classes: int
    """Number of classes."""
    decode: Callable[[Indices], Images]
    """Gives the training images at these positions, in this order, all of one size."""
    test_set: HeldOutTestSet[tuple[Images, Labels]]
    """Images and labels of the test set, for a confirmation."""


@dataclass(frozen=True)
class StreamedDataset:
    """A data set that is too large for memory. Its image files are decoded while training."""

    name: str
    """The data set as messages name it."""
    labels: Labels
    """Class numbers (N,) of the training set."""
    classes: int
    """Number of classes."""
    paths: Paths
    """Image files (N,) of the training set."""
    test_set: HeldOutTestSet[tuple[Paths, Labels]]
    """Image files and labels of the test set, for a confirmation."""


def in_memory_dataset(
    name: str,
    training: tuple[Images, Labels],
    test: Callable[[], tuple[Images, Labels]],
    classes: int,
    image_size: int | None,
) -> ImageDataset:
    """Make a data set of images that are already decoded.

    Args:
        name: The data set as messages name it.
        training: Images and labels of the training set.
        test: Reads images and labels of the test set.
        classes: Number of classes.
        image_size: Side (pixels) to which all images are resized; None keeps their size.
    """
    images, labels = training

    def read_test() -> tuple[Images, Labels]:
        test_images, test_labels = test()
        return _resized(test_images, image_size), test_labels

    def decode(chosen: Indices) -> Images:
        return _resized(images[chosen], image_size)

    return ImageDataset(name, labels, classes, decode, HeldOutTestSet(read_test))


def _resized(images: Images, size: int | None) -> Images:
    if size is None or images.shape[2:] == (size, size):
        return images
    pixels = functional.interpolate(
        torch.from_numpy(images).float(), (size, size), mode="bilinear", antialias=True
    )
    resized: Images = pixels.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return resized
