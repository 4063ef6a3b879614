"""Which images are used: class-balanced subsets and stratified splits.

Both follow from the labels and a seed, and must be the same on every machine that works on a study.
Hence ``numpy.random.RandomState``: its stream is frozen, while that of ``default_rng`` may change
between versions of NumPy.
"""

from __future__ import annotations

import numpy as np

from kdecay_search.training.data.dataset import Indices, Labels

SUBSET_STREAM, SPLIT_STREAM = 1, 2
"""Numbers that give subsets and splits of one seed unrelated random numbers."""


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
