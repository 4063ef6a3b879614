"""What a data set has to offer, and the sets that fit in memory as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from kdecay_search.training.data.sealed import Sealed

Images = NDArray[np.uint8]
"""(N, C, H, W)."""
Labels = NDArray[np.int64]
"""(N,), from 0."""
Indices = NDArray[np.int64]
"""Positions in a source's training part."""
Paths = NDArray[np.bytes_]
"""(N,), as the file system has them; in an array a million of them take little memory."""


@dataclass(frozen=True)
class Source:
    """The training part of a data set: its labels at once, its images as they are asked for."""

    name: str
    """For messages."""
    labels: Labels
    classes: int
    decode: Callable[[Indices], Images]
    """The images at these positions, in this order, all of one size."""
    test: Sealed[tuple[Images, Labels]]


@dataclass(frozen=True)
class FileSource:
    """The training part of a data set that is too large to be decoded as a whole."""

    name: str
    """For messages."""
    labels: Labels
    classes: int
    paths: Paths
    test: Sealed[tuple[Paths, Labels]]


def in_memory(
    name: str,
    training: tuple[Images, Labels],
    test: Callable[[], tuple[Images, Labels]],
    classes: int,
    image_size: int | None,
) -> Source:
    """A source of decoded images, resized if ``image_size`` (pixels a side) says so."""
    images, labels = training

    def read_test() -> tuple[Images, Labels]:
        test_images, test_labels = test()
        return _resized(test_images, image_size), test_labels

    def decode(chosen: Indices) -> Images:
        return _resized(images[chosen], image_size)

    return Source(name, labels, classes, decode, Sealed(read_test))


def _resized(images: Images, size: int | None) -> Images:
    if size is None or images.shape[2:] == (size, size):
        return images
    pixels = functional.interpolate(
        torch.from_numpy(images).float(), (size, size), mode="bilinear", antialias=True
    )
    resized: Images = pixels.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return resized
