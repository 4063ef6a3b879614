"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import ImageDataset, Images, Indices, Labels
from kdecay_search.training.data.in_memory import in_memory_dataset
from kdecay_search.training.data.sampling import stratified_split

CLASS_NAMES = tuple("0123456789")
BRIGHTEST = 16
"""Largest value of a pixel in scikit-learn's arrays; the smallest is 0."""

# The data set has no test set of its own. These two numbers define one and must never change: with
# other values, images that studies have chosen k by would turn up in the test set.
TEST_SHARE = 0.2
TEST_SEED = 1797


def digits(data: DataSpec) -> ImageDataset:
    """The digits: four fifths are the training set, the others the test set."""
    bunch = load_digits()
    pixels = np.rint(np.asarray(bunch.images) * (255 / BRIGHTEST)).astype(np.uint8)
    labels = np.asarray(bunch.target, dtype=np.int64)
    training, test = stratified_split(labels, TEST_SHARE, TEST_SEED)

    def part(chosen: Indices) -> tuple[Images, Labels]:
        return pixels[chosen][:, None], labels[chosen]

    return in_memory_dataset(
        "digits", part(training), lambda: part(test), CLASS_NAMES, data.image_size
    )
