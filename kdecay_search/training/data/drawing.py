"""Which images are used: subsets drawn evenly over the classes, and stratified splits.

Everything here follows from labels and a seed, and must be the same on every machine that works on
a study. Hence ``RandomState``: NumPy has frozen its stream, while ``default_rng``'s may change.
"""

from __future__ import annotations

import numpy as np

from kdecay_search.training.data.source import Indices, Labels

SUBSET_STREAM, SPLIT_STREAM = 1, 2


def even_subset(labels: Labels, size: int, seed: int) -> Indices:
    """``size`` positions, sorted, as many of every class as possible.

    A class with fewer images than its share gives all it has, and the larger ones make up for it.
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
    """(rest, part): sorted positions, ``part`` holding about ``share`` of every class.

    In all, it holds ``share`` rounded to whole images; where the classes' shares are not whole,
    those with the largest remainders get one more.
    """
    random = np.random.RandomState([SPLIT_STREAM, seed])
    groups = _by_class(labels)
    taken = _quotas([len(group) for group in groups], share)
    shuffled = [random.permutation(group) for group in groups]
    part = np.concatenate([group[:n] for group, n in zip(shuffled, taken, strict=True)])
    rest = np.concatenate([group[n:] for group, n in zip(shuffled, taken, strict=True)])
    return np.sort(rest), np.sort(part)


def _quotas(counts: list[int], share: float) -> list[int]:
    wanted = np.array(counts) * share
    quotas = np.floor(wanted).astype(np.int64)
    missing = round(sum(counts) * share) - int(quotas.sum())
    for index in np.argsort(quotas - wanted, kind="stable")[: max(missing, 0)]:
        quotas[index] += 1
    return [int(quota) for quota in quotas]


def _by_class(labels: Labels) -> list[Indices]:
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
