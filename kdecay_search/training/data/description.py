"""Says in words what was found in a data set: its classes, its split, what is not used, copies.

Workers log this when they load a data set, and ``kdecay check`` prints it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.class_folders import list_training_set, printable, shortened
from kdecay_search.training.data.copies import copied_files
from kdecay_search.training.data.dataset import Labels
from kdecay_search.training.data.sampling import draw_sample

MOST_FILES_COMPARED = 50_000
"""Largest number of image files that are compared with each other."""


def describe_data(data: DataSpec) -> Iterator[str]:
    """Describe a data set that is a folder, as a search would use it.

    Args:
        data: ``[task.data]`` of a study, with the name ``image-folder`` or ``imagenet``.

    Yields:
        One line for the images and classes, then lines for what is not used and for copies.

    Raises:
        DataError: The data set cannot be used.
    """
    found = list_training_set(data)
    name = f"image folder {str(found.folder)!r}"
    sample = draw_sample(found.labels, data, name)
    training, validation = sample.chosen[sample.training], sample.chosen[sample.validation]
    yield describe_images(name, found.labels, found.class_names, len(sample.chosen))
    yield describe_split(len(training), len(validation))
    yield from describe_unused(found.not_used)
    if len(sample.chosen) > MOST_FILES_COMPARED:
        yield f"more than {MOST_FILES_COMPARED:,} images: copies were not looked for"
        return
    try:
        copies = copied_files(
            [found.paths[index] for index in training],
            [found.paths[index] for index in validation],
        )
    except OSError as error:
        raise DataError(f"image {error.filename!r}: cannot be read: {error.strerror}") from None
    yield from describe_copies(copies, len(validation))


def describe_images(name: str, labels: Labels, class_names: Sequence[str], chosen: int) -> str:
    """How many images and classes there are, how many of each class, and how many are used."""
    counts = np.bincount(labels, minlength=len(class_names))
    classes = [f"{name} {count:,}" for name, count in zip(class_names, counts, strict=True)]
    subset = f"; a subset of {chosen:,} is used" if chosen < len(labels) else ""
    found = f"{len(labels):,} images in {len(classes):,} classes ({shortened(classes)})"
    return f"{name}: {found}{subset}"


def describe_split(training: int, measured: int, measured_on: str = "validation") -> str:
    """How many images there are to train on and to measure errors on."""
    return (
        f"{training:,} images to train on, {measured:,} {measured_on} images to measure errors on"
    )


def describe_unused(not_used: Sequence[str]) -> Iterator[str]:
    """One line if anything was found that is not used."""
    if not_used:
        yield f"not used: {'; '.join(not_used)}"


def describe_copies(copies: Sequence[tuple[str, str]], measured: int) -> Iterator[str]:
    """One line if images to measure errors on are copies of images to train on."""
    if copies:
        copy, original = map(printable, copies[0])
        yield (
            f"{len(copies):,} of the {measured:,} images to measure errors on are copies of images "
            f"to train on, which makes errors too low: {copy} is {original}; remove the copies"
        )
