"""From a study's ``[task.data]`` to what is trained and validated on."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

import numpy as np
import torch

from kdecay_search.errors import DataError, MissingPackage
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.drawing import even_subset, stratified_split
from kdecay_search.training.data.normalisation import PUBLISHED, measured
from kdecay_search.training.data.sealed import Purpose
from kdecay_search.training.data.source import FileSource, Images, Indices, Source
from kdecay_search.training.data.split import AnySplit, Split, StreamedSplit

FEWEST_TRAINING_IMAGES = 2
"""Batch norm cannot train on one."""

_SOURCES = {
    "digits": ("digits", "digits"),
    "cifar10": ("cifar", "cifar"),
    "cifar100": ("cifar", "cifar"),
    "image-folder": ("folder", "image_folder"),
    "imagenet": ("imagenet", "imagenet"),
}
"""By name: module of this package, and its function from a DataSpec to a source."""

AnySource = Source | FileSource


@lru_cache(maxsize=1)
def load(data: DataSpec, device: torch.device, purpose: Purpose = Purpose.SEARCH) -> AnySplit:
    """The data set, drawn, split and, unless too large, on the device. Raises :class:`DataError`
    with one line.

    For a confirmation nothing is held out of the training part, and errors are measured on the
    test part, which is read for nothing else.

    A worker trains run after run on the same data, so the last answer is kept. What is drawn
    depends on ``data`` alone, never on a run's seed: all runs of a study are comparable.
    """
    source = _source(data)
    chosen = _drawn(source, data)
    rest, part = stratified_split(source.labels[chosen], data.validation, data.split_seed)
    _check(source, data, len(rest), len(part))
    if isinstance(source, FileSource):
        return _streamed(source, data, chosen, rest, part, purpose)
    return _held(source, data, device, chosen, rest, part, purpose)


def _streamed(
    source: FileSource,
    data: DataSpec,
    chosen: Indices,
    rest: Indices,
    part: Indices,
    purpose: Purpose,
) -> StreamedSplit:
    """``rest`` and ``part``: positions in ``chosen`` to train and to validate on."""
    paths, labels = source.paths[chosen], source.labels[chosen]
    measured_on = paths[part], labels[part]
    if purpose is Purpose.CONFIRMATION:
        rest, measured_on = np.arange(len(chosen)), source.test.open(purpose)
    mean, std = PUBLISHED[data.normalisation or "imagenet"]
    return StreamedSplit(
        training_paths=paths[rest],
        training_labels=labels[rest],
        validation_paths=measured_on[0],
        validation_labels=measured_on[1],
        classes=source.classes,
        mean=mean,
        std=std,
    )


def _held(
    source: Source,
    data: DataSpec,
    device: torch.device,
    chosen: Indices,
    rest: Indices,
    part: Indices,
    purpose: Purpose,
) -> Split:
    """``rest`` and ``part``: positions in ``chosen`` to train and to validate on."""
    images, labels = source.decode(chosen), source.labels[chosen]
    measured_on = images[part], labels[part]
    if purpose is Purpose.CONFIRMATION:
        rest, measured_on = np.arange(len(chosen)), source.test.open(purpose)
        _check_sizes(source, images, measured_on[0])
    mean, std = PUBLISHED.get(data.normalisation or "measured") or measured(images, rest)

    def on_device(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Split(
        training_images=on_device(images[rest]),
        training_labels=on_device(labels[rest]),
        validation_images=on_device(measured_on[0]),
        validation_labels=on_device(measured_on[1]),
        classes=source.classes,
        mean=mean,
        std=std,
    )


def _source(data: DataSpec) -> AnySource:
    """Imports late: digits need no torchvision, folders no scikit-learn."""
    module, function = _SOURCES[data.name]
    try:
        make = getattr(import_module(f"kdecay_search.training.data.{module}"), function)
    except (ImportError, RuntimeError) as error:  # torchvision's, built for another torch
        reason = str(error).partition("\n")[0]
        raise MissingPackage(
            f"data set {data.name} needs a package that cannot be imported ({reason}): "
            f"pip install 'kdecay-search[worker]'"
        ) from None
    source: AnySource = make(data)
    return source


def _drawn(source: AnySource, data: DataSpec) -> Indices:
    available = len(source.labels)
    if data.subset is None:
        return np.arange(available, dtype=np.int64)
    if data.subset > available:
        raise DataError(
            f"task.data.subset = {data.subset}: {source.name} has {available} training images; "
            f"use at most that many"
        )
    return even_subset(source.labels, data.subset, data.split_seed)


def _check_sizes(source: Source, training: Images, test: Images) -> None:
    if training.shape[1:] != test.shape[1:]:
        (height, width), (test_height, test_width) = training.shape[2:], test.shape[2:]
        raise DataError(
            f"{source.name}: test images are {test_width} x {test_height} pixels, training images "
            f"{width} x {height}; set task.data.image_size to bring all to one size"
        )


def _check(source: AnySource, data: DataSpec, training: int, validation: int) -> None:
    total = training + validation
    if not validation:
        raise DataError(
            f"task.data.validation = {data.validation:g}: leaves no image of {source.name} "
            f"to validate on ({total} in all); raise it or use more images"
        )
    if training < FEWEST_TRAINING_IMAGES:
        raise DataError(
            f"task.data.validation = {data.validation:g}: leaves {training} of {total} images of "
            f"{source.name} to train on; lower it or use more images"
        )
