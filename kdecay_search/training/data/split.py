"""A data set split in two: images to train on and images to measure errors on.

In a search the second are the validation set, held out of the training set to choose k by. In a
confirmation they are the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdecay_search.training.data.dataset import Labels, Paths


@dataclass(frozen=True, eq=False)
class Split:
    """Images that are held on the device. They are shared by runs: do not write to them."""

    training_images: Tensor
    """Images to train on: uint8 (N, C, H, W)."""
    training_labels: Tensor
    """Class numbers of the images to train on: int64 (N,), from 0."""
    validation_images: Tensor
    """Images to measure errors on: uint8 (N, C, H, W)."""
    validation_labels: Tensor
    """Class numbers of the images to measure errors on: int64 (N,), from 0."""
    classes: int
    """Number of classes."""
    mean: tuple[float, ...]
    """Mean of each channel that images are normalised with, in 0 … 255."""
    std: tuple[float, ...]
    """Standard deviation of each channel that images are normalised with, in 0 … 255."""

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.training_images.shape[1]


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Image files that are decoded in every epoch, into three channels."""

    training_paths: Paths
    """Files (N,) of the images to train on."""
    training_labels: Labels
    """Class numbers of the images to train on: int64 (N,), from 0."""
    validation_paths: Paths
    """Files (N,) of the images to measure errors on."""
    validation_labels: Labels
    """Class numbers of the images to measure errors on: int64 (N,), from 0."""
    classes: int
    """Number of classes."""
    mean: tuple[float, ...]
    """Mean of each channel that images are normalised with, in 0 … 255."""
    std: tuple[float, ...]
    """Standard deviation of each channel that images are normalised with, in 0 … 255."""
    channels: int = 3
    """Number of channels of an image."""


AnySplit = Split | StreamedSplit
"""What :func:`kdecay_search.training.data.load` returns."""
