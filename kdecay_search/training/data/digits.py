"""scikit-learn's bundled handwritten digits: 1797 grey images of 8x8 pixels, ten classes."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.drawing import stratified_split
from kdecay_search.training.data.source import Images, Indices, Labels, Source, in_memory

CLASSES = 10
BRIGHTEST = 16
"""Pixels come as 0 to 16."""

# The set has no test part of its own. These two numbers define one, and must never change:
# with other values, images that studies have chosen k on would turn up in the test part.
TEST_SHARE = 0.2
TEST_SEED = 1797


def digits(data: DataSpec) -> Source:
    """Four fifths of the digits to train on; the others are the test part."""
    bunch = load_digits()
    pixels = np.rint(np.asarray(bunch.images) * (255 / BRIGHTEST)).astype(np.uint8)
    labels = np.asarray(bunch.target, dtype=np.int64)
    training, test = stratified_split(labels, TEST_SHARE, TEST_SEED)

    def part(chosen: Indices) -> tuple[Images, Labels]:
        return pixels[chosen][:, None], labels[chosen]

    return in_memory("digits", part(training), lambda: part(test), CLASSES, data.image_size)
