"""Which images are used: class-balanced subsets and stratified splits.

Both follow from the labels and a seed, and must be the same on every machine that works on a study.
Hence ``numpy.random.RandomState``: its stream is frozen, while that of ``default_rng`` may change
between versions of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import Indices, Labels

SUBSET_STREAM, SPLIT_STREAM = 1, 2
"""Numbers that give subsets and splits of one seed unrelated random numbers."""
FEWEST_TRAINING_IMAGES = 2
"""Smallest number of images to train on: batch norm cannot train on one."""


@dataclass(frozen=True)
class Sample:
    """Which images of a training set a study uses, and how they are split."""

    chosen: Indices
    """Positions, in the training set, of the images that the study uses."""
    training: Indices
    """Positions in ``chosen`` of the images that a search trains on."""
    validation: Indices
    """Positions in ``chosen`` of the images that a search measures errors on."""


def draw_sample(labels: Labels, data: DataSpec, name: str) -> Sample:
    """Draw the subset and the split of a study.

    Args:
        labels: Class numbers (N,) of the training set.
        data: ``[task.data]`` of the study.
        name: The data set as error messages name it.

    Raises:
        DataError: There are too few images for the subset, or for one side of the split.
    """
    available = len(labels)
    if data.subset is None:
        chosen = np.arange(available, dtype=np.int64)
    elif data.subset <= available:
        chosen = balanced_subset(labels, data.subset, data.split_seed)
    else:
        raise DataError(
            f"task.data.subset = {data.subset}: {name} has {available} training images; "
            f"use at most that many"
        )
    training, validation = stratified_split(labels[chosen], data.validation, data.split_seed)
    share = f"task.data.validation = {data.validation:g}"
    if not len(validation):
        raise DataError(
            f"{share}: leaves no image of {name} to validate on ({len(chosen)} in all); raise it "
            "or use more images"
        )
    if len(training) < FEWEST_TRAINING_IMAGES:
        raise DataError(
            f"{share}: leaves {len(training)} of {len(chosen)} images of {name} to train on; lower "
            "it or use more images"
        )
    if len(np.unique(labels[chosen][training])) == 1:
        raise DataError(
            f"{share}: leaves images of one class of {name} to train on; lower it or use more "
            "images"
        )
    return Sample(chosen, training, validation)


def balanced_subset(labels: Labels, size: int, seed: int) -> Indices:
    """Draw a subset with as many images of every class as possible.

    A class with fewer images than its share gives all it has, and larger classes give more.

    Args:
        labels: Class numbers (N,).
        size: Number of images to draw, at most N.
        seed: ``task.data.split_seed`` of the study.

    Returns:
        Positions (size,) in ``labels``, sorted.
    """
    random = np.random.RandomState([SUBSET_STREAM, seed])
    groups = sorted(_by_class(labels), key=len)
    chosen = []
    for number, group in enumerate(groups):
        share = size // (len(groups) - number)
        chosen.append(random.permutation(group)[:share])
        size -= len(chosen[-1])
    return np.sort(np.concatenate(chosen))


def stratified_split(labels: Labels, share: float, seed: int) -> tuple[Indices, Indices]:
    """Split images in two, with the same share of every class.

    The smaller side has ``share`` of all images, rounded to whole images. Where a class's share is
    not whole, the classes with the largest remainders give one image more.

    Args:
        labels: Class numbers (N,).
        share: Share of the second side, in (0, 1).
        seed: ``task.data.split_seed`` of the study.

    Returns:
        Positions in ``labels``, sorted: those of the rest, and those of the side with ``share``.
    """
    random = np.random.RandomState([SPLIT_STREAM, seed])
    groups = _by_class(labels)
    taken = _quotas([len(group) for group in groups], share)
    shuffled = [random.permutation(group) for group in groups]
    part = np.concatenate([group[:n] for group, n in zip(shuffled, taken, strict=True)])
    rest = np.concatenate([group[n:] for group, n in zip(shuffled, taken, strict=True)])
    return np.sort(rest), np.sort(part)


def _quotas(counts: list[int], share: float) -> list[int]:
    """How many images each class gives, by the method of largest remainders."""
    wanted = np.array(counts) * share
    quotas = np.floor(wanted).astype(np.int64)
    missing = round(sum(counts) * share) - int(quotas.sum())
    for index in np.argsort(quotas - wanted, kind="stable")[: max(missing, 0)]:
        quotas[index] += 1
    return [int(quota) for quota in quotas]


def _by_class(labels: Labels) -> list[Indices]:
    """Positions of each class's images, by class number."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
