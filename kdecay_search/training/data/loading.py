"""Loads the data of a study's ``[task.data]``: what its runs train and are measured on."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

import numpy as np
import torch

from kdecay_search.errors import DataError, MissingPackage
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import ImageDataset, Images, Indices, StreamedDataset
from kdecay_search.training.data.held_out import Purpose
from kdecay_search.training.data.normalisation import PUBLISHED, measured
from kdecay_search.training.data.sampling import balanced_subset, stratified_split
from kdecay_search.training.data.split import AnySplit, Split, StreamedSplit

FEWEST_TRAINING_IMAGES = 2
"""Smallest number of images to train on: batch norm cannot train on one."""

_READERS = {
    "digits": ("digits", "digits"),
    "cifar10": ("cifar", "cifar"),
    "cifar100": ("cifar", "cifar"),
    "image-folder": ("image_folder", "image_folder"),
    "imagenet": ("imagenet", "imagenet"),
}
"""For each ``task.data.name``: a module of this package, and its function that reads the data."""

AnyDataset = ImageDataset | StreamedDataset


@lru_cache(maxsize=1)
def load(data: DataSpec, device: torch.device, purpose: Purpose = Purpose.SEARCH) -> AnySplit:
    """Load a data set, reduced to a subset, split and, unless too large, put on the device.

    In a search, a share of the training set is held out to measure errors on. In a confirmation
    nothing is held out, and errors are measured on the test set, which is read for nothing else.

    What is drawn depends on ``data`` alone and never on a run's seed, so that all runs of a study
    are comparable. The last result is kept, because a worker trains run after run on the same data.

    Args:
        data: ``[task.data]`` of the study.
        device: Where images that fit in memory are held.
        purpose: Whether to prepare a search or a confirmation.

    Raises:
        DataError: The data is missing, damaged, or too small for the split, in one line.
        MissingPackage: A package that reads this data set cannot be imported.
    """
    dataset = _read(data)
    chosen = _subset(dataset, data)
    training, validation = stratified_split(
        dataset.labels[chosen], data.validation, data.split_seed
    )
    _check_counts(dataset, data, len(training), len(validation))
    if isinstance(dataset, StreamedDataset):
        return _streamed_split(dataset, data, chosen, training, validation, purpose)
    return _in_memory_split(dataset, data, device, chosen, training, validation, purpose)


def _streamed_split(
    dataset: StreamedDataset,
    data: DataSpec,
    chosen: Indices,
    training: Indices,
    validation: Indices,
    purpose: Purpose,
) -> StreamedSplit:
    """``training`` and ``validation`` are positions in ``chosen``."""
    paths, labels = dataset.paths[chosen], dataset.labels[chosen]
    measured_on = paths[validation], labels[validation]
    if purpose is Purpose.CONFIRMATION:
        training, measured_on = np.arange(len(chosen)), dataset.test_set.open(purpose)
    mean, std = PUBLISHED[data.normalisation or "imagenet"]
    return StreamedSplit(
        training_paths=paths[training],
        training_labels=labels[training],
        validation_paths=measured_on[0],
        validation_labels=measured_on[1],
        classes=dataset.classes,
        mean=mean,
        std=std,
    )


def _in_memory_split(
    dataset: ImageDataset,
    data: DataSpec,
    device: torch.device,
    chosen: Indices,
    training: Indices,
    validation: Indices,
    purpose: Purpose,
) -> Split:
    """``training`` and ``validation`` are positions in ``chosen``."""
    images, labels = dataset.decode(chosen), dataset.labels[chosen]
    measured_on = images[validation], labels[validation]
    if purpose is Purpose.CONFIRMATION:
        training, measured_on = np.arange(len(chosen)), dataset.test_set.open(purpose)
        _check_sizes(dataset, images, measured_on[0])
    mean, std = PUBLISHED.get(data.normalisation or "measured") or measured(images, training)

    def on_device(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Split(
        training_images=on_device(images[training]),
        training_labels=on_device(labels[training]),
        validation_images=on_device(measured_on[0]),
        validation_labels=on_device(measured_on[1]),
        classes=dataset.classes,
        mean=mean,
        std=std,
    )


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


def _subset(dataset: AnyDataset, data: DataSpec) -> Indices:
    """Positions of the training images that the study uses."""
    available = len(dataset.labels)
    if data.subset is None:
        return np.arange(available, dtype=np.int64)
    if data.subset > available:
        raise DataError(
            f"task.data.subset = {data.subset}: {dataset.name} has {available} training images; "
            f"use at most that many"
        )
    return balanced_subset(dataset.labels, data.subset, data.split_seed)


def _check_counts(dataset: AnyDataset, data: DataSpec, training: int, validation: int) -> None:
    """Raise :class:`DataError` if one side of the split has too few images."""
    total = training + validation
    if not validation:
        raise DataError(
            f"task.data.validation = {data.validation:g}: leaves no image of {dataset.name} "
            f"to validate on ({total} in all); raise it or use more images"
        )
    if training < FEWEST_TRAINING_IMAGES:
        raise DataError(
            f"task.data.validation = {data.validation:g}: leaves {training} of {total} images of "
            f"{dataset.name} to train on; lower it or use more images"
        )


def _check_sizes(dataset: ImageDataset, training: Images, test: Images) -> None:
    """Raise :class:`DataError` if the test images have another size than the training images."""
    if training.shape[1:] != test.shape[1:]:
        (height, width), (test_height, test_width) = training.shape[2:], test.shape[2:]
        raise DataError(
            f"{dataset.name}: test images are {test_width} x {test_height} pixels, training images "
            f"{width} x {height}; set task.data.image_size to resize all images"
        )
