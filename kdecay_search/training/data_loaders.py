"""The data loaders of a run: batches to train on and batches to measure errors on.

A batch is ``(images, labels)`` on the run's device: normalised images (N, C, H, W) of the type that
the network computes with, channels last in memory, and int64 class numbers (N,).

:mod:`kdecay_search.training.in_memory_loader` has the loaders of data sets that are held on the
device; :mod:`kdecay_search.training.streaming_loader` those of image files that are decoded while
the network trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.training.data.split import AnySplit, StreamedSplit
from kdecay_search.training.in_memory_loader import InMemoryTrainLoader, InMemoryValidationLoader
from kdecay_search.training.precision import dtype_of
from kdecay_search.training.process_group import ALONE, ProcessGroup


class TrainLoader(Protocol):
    """The images to train on, in a new order and with new augmentation in every epoch.

    Batches are those of the run. If several ranks train it, each iterates over its own parts.
    """

    size: int
    """Number of images in a batch."""
    steps_per_epoch: int
    """Number of batches, and so of optimizer updates, in an epoch."""

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch.

        Args:
            number: The epoch, from 1. Together with the run's seed it fixes every batch.
            done: How many of the epoch's batches to skip, because an earlier attempt at the run
                has trained on them.
        """
        ...


class ValidationLoader(Protocol):
    """The images to measure errors on: without augmentation, the same at every pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class DataLoaders:
    """The two data loaders of one run."""

    train: TrainLoader
    """Batches of the images to train on."""
    validation: ValidationLoader
    """Batches of the images to measure errors on."""


def make_data_loaders(
    task: ImagesTask,
    split: AnySplit,
    seed: int,
    device: torch.device,
    decoders: int,
    group: ProcessGroup = ALONE,
) -> DataLoaders:
    """Make the data loaders of a run.

    Args:
        task: The study's task: batch size, augmentation and precision.
        split: The images to train on and to measure errors on.
        seed: The run's seed, which decides order and augmentation.
        device: Where the batches go.
        decoders: Number of processes that decode image files; unused for images in memory.
        group: The ranks that train the run.
    """
    data, size, dtype = task.data, task.batch_size, dtype_of(task)
    if not isinstance(split, StreamedSplit):
        return DataLoaders(
            InMemoryTrainLoader(data, split, size, seed, group, dtype),
            InMemoryValidationLoader(split, device, group, dtype),
        )
    # Imported here because torchvision takes a second to import.
    from kdecay_search.training.streaming_loader import (  # noqa: PLC0415
        StreamingTrainLoader,
        StreamingValidationLoader,
    )

    return DataLoaders(
        StreamingTrainLoader(data, split, size, seed, device, decoders, group, dtype),
        StreamingValidationLoader(data, split, size, device, decoders, group, dtype),
    )
