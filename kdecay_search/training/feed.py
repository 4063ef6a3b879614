"""What a training reads: batches to train and to validate on, wherever they come from.

A batch is (images, labels) on the device: normalised float32 (N, C, H, W), channels last in
memory, and int64 (N,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.training.augmentation import Batches, HeldValidation
from kdecay_search.training.data import AnySplit, StreamedSplit


class TrainingBatches(Protocol):
    """The training part, epoch by epoch; an epoch is a new order and new views of its images."""

    steps_per_epoch: int

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Every batch of epoch ``number``, which with the run's seed alone fixes what is drawn,
        but for the first ``done``."""
        ...


class ValidationBatches(Protocol):
    """The validation part, the same at every pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Feed:
    """One run's batches."""

    training: TrainingBatches
    validation: ValidationBatches


def feed(task: ImagesTask, split: AnySplit, seed: int, device: torch.device, decoders: int) -> Feed:
    """The batches of the run with ``seed``; ``decoders``: processes, if any are needed."""
    if not isinstance(split, StreamedSplit):
        batches = Batches(task.data, split, task.batch_size, seed)
        return Feed(batches, HeldValidation(split, device))
    from kdecay_search.training import streaming  # noqa: PLC0415 - torchvision, where it is needed

    return Feed(
        streaming.StreamedBatches(task.data, split, task.batch_size, seed, device, decoders),
        streaming.StreamedValidation(task.data, split, task.batch_size, device, decoders),
    )
