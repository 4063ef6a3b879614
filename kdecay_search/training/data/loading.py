"""Loads the data of a study's ``[task.data]``: what its runs train and are measured on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module

import numpy as np
import torch

from kdecay_search.errors import DataError, MissingPackage
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.copies import copied_files, copied_images
from kdecay_search.training.data.dataset import AnyDataset, ImageDataset, Images, StreamedDataset
from kdecay_search.training.data.description import (
    MOST_FILES_COMPARED,
    describe_copies,
    describe_images,
    describe_split,
    describe_unused,
)
from kdecay_search.training.data.held_out import Purpose
from kdecay_search.training.data.normalisation import PUBLISHED, measured
from kdecay_search.training.data.sampling import Sample, draw_sample
from kdecay_search.training.data.split import AnySplit, Split, StreamedSplit

logger = logging.getLogger(__name__)

_READERS = {
    "digits": ("digits", "digits"),
    "cifar10": ("cifar", "cifar"),
    "cifar100": ("cifar", "cifar"),
    "image-folder": ("image_folder", "image_folder"),
    "imagenet": ("imagenet", "imagenet"),
}
"""For each ``task.data.name``: a module of this package, and its function that reads the data."""


@lru_cache(maxsize=1)
def load(data: DataSpec, device: torch.device, purpose: Purpose = Purpose.SEARCH) -> AnySplit:
    """Load a data set, reduced to a subset, split and, unless too large, put on the device.

    In a search, a share of the training set is held out to measure errors on. In a confirmation
    nothing is held out, and errors are measured on the test set, which is read for nothing else.

    What is drawn depends on ``data`` alone and never on a run's seed, so that all runs of a study
    are comparable. The last result is kept, because a worker trains run after run on the same data.
    What was found is logged: classes, images, the split, and copies on both sides of it.

    Args:
        data: ``[task.data]`` of the study.
        device: Where images that fit in memory are held.
        purpose: Whether to prepare a search or a confirmation.

    Raises:
        DataError: The data is missing, damaged, or too small for the split, in one line.
        MissingPackage: A package that reads this data set cannot be imported.
    """
    dataset = _read(data)
    sample = draw_sample(dataset.labels, data, dataset.name)
    count = len(sample.chosen)
    logger.info("%s", describe_images(dataset.name, dataset.labels, dataset.class_names, count))
    for line in describe_unused(dataset.not_used):
        logger.info("%s: %s", dataset.name, line)
    if isinstance(dataset, StreamedDataset):
        return _streamed_split(dataset, data, sample, purpose)
    return _in_memory_split(dataset, data, device, sample, purpose)


def _streamed_split(
    dataset: StreamedDataset, data: DataSpec, sample: Sample, purpose: Purpose
) -> StreamedSplit:
    paths, labels = dataset.paths[sample.chosen], dataset.labels[sample.chosen]
    if purpose is Purpose.CONFIRMATION:
        training_paths, training_labels = paths, labels
        measured_paths, measured_labels = dataset.test_set.open(purpose)
    else:
        training_paths, training_labels = paths[sample.training], labels[sample.training]
        measured_paths, measured_labels = paths[sample.validation], labels[sample.validation]
    _log_split(dataset, purpose, len(training_labels), len(measured_labels))
    if len(training_labels) + len(measured_labels) <= MOST_FILES_COMPARED:
        try:
            copies = copied_files(
                [os.fsdecode(path) for path in training_paths],
                [os.fsdecode(path) for path in measured_paths],
            )
        except OSError as error:
            raise DataError(f"image {error.filename!r}: cannot be read: {error.strerror}") from None
        _log_copies(dataset, describe_copies(copies, len(measured_labels)))
    mean, std = PUBLISHED[data.normalisation or "imagenet"]
    return StreamedSplit(
        training_paths=training_paths,
        training_labels=training_labels,
        validation_paths=measured_paths,
        validation_labels=measured_labels,
        classes=len(dataset.class_names),
        mean=mean,
        std=std,
    )


def _in_memory_split(
    dataset: ImageDataset, data: DataSpec, device: torch.device, sample: Sample, purpose: Purpose
) -> Split:
    images, labels = dataset.decode(sample.chosen), dataset.labels[sample.chosen]
    training = sample.training
    measured_images, measured_labels = images[sample.validation], labels[sample.validation]
    if purpose is Purpose.CONFIRMATION:
        training = np.arange(len(sample.chosen))
        measured_images, measured_labels = dataset.test_set.open(purpose)
        _check_sizes(dataset, images, measured_images)
    training_images = images[training]
    _log_split(dataset, purpose, len(training), len(measured_labels))
    if dataset.paths is not None:
        copies = [
            (
                f"a {dataset.class_names[measured_labels[copy]]} image"
                if purpose is Purpose.CONFIRMATION
                else dataset.paths[sample.chosen[sample.validation[copy]]],
                dataset.paths[sample.chosen[training[original]]],
            )
            for copy, original in copied_images(training_images, measured_images)
        ]
        _log_copies(dataset, describe_copies(copies, len(measured_labels)))
    mean, std = PUBLISHED.get(data.normalisation or "measured") or measured(images, training)

    def on_device(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Split(
        training_images=on_device(training_images),
        training_labels=on_device(labels[training]),
        validation_images=on_device(measured_images),
        validation_labels=on_device(measured_labels),
        classes=len(dataset.class_names),
        mean=mean,
        std=std,
    )


def _log_split(dataset: AnyDataset, purpose: Purpose, training: int, measured_on: int) -> None:
    name = "test" if purpose is Purpose.CONFIRMATION else "validation"
    logger.info("%s: %s", dataset.name, describe_split(training, measured_on, name))


def _log_copies(dataset: AnyDataset, lines: Iterator[str]) -> None:
    for line in lines:
        logger.warning("%s: %s", dataset.name, line)


def _read(data: DataSpec) -> AnyDataset:
    """Read the data set. Digits need no torchvision, folders no scikit-learn: imports are late."""
    module, function = _READERS[data.name]
    try:
        read = getattr(import_module(f"kdecay_search.training.data.{module}"), function)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        reason = str(error).partition("\n")[0]
        raise MissingPackage(
            f"data set {data.name} needs a package that cannot be imported ({reason}): "
            f"pip install 'kdecay-search[worker]'"
        ) from None
    dataset: AnyDataset = read(data)
    return dataset


def _check_sizes(dataset: ImageDataset, training: Images, test: Images) -> None:
    """Raise :class:`DataError` if the test images have another size than the training images."""
    if training.shape[1:] != test.shape[1:]:
        (height, width), (test_height, test_width) = training.shape[2:], test.shape[2:]
        raise DataError(
            f"{dataset.name}: test images are {test_width} x {test_height} pixels, training images "
            f"{width} x {height}; set task.data.image_size to resize all images"
        )
