"""A data set in two: images to train on, and images to measure errors on.

In a search these are the validation part: held out of the training part, to choose k on. In a
confirmation they are the test part.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdecay_search.training.data.source import Labels, Paths


@dataclass(frozen=True, eq=False)
class Split:
    """Images that are held on the device. Do not write to it."""

    training_images: Tensor
    """uint8 (N, C, H, W), like ``validation_images``."""
    training_labels: Tensor
    """int64 (N,), like ``validation_labels``."""
    validation_images: Tensor
    validation_labels: Tensor
    classes: int
    mean: tuple[float, ...]
    """By channel, in 0 … 255: what images are normalised with."""
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.training_images.shape[1]


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Image files that are decoded whenever they are trained on, into three channels."""

    training_paths: Paths
    training_labels: Labels
    validation_paths: Paths
    validation_labels: Labels
    classes: int
    mean: tuple[float, ...]
    """By channel, in 0 … 255: what images are normalised with."""
    std: tuple[float, ...]
    channels: int = 3


AnySplit = Split | StreamedSplit
