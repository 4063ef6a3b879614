"""Means and standard deviations of the channels, with which images are normalised."""

from __future__ import annotations

import numpy as np

from kdecay_search.training.data.dataset import Images, Indices

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in 0 … 255."""

BLOCK = 1024
"""Number of images that are counted at a time, which limits the memory it takes."""

PUBLISHED: dict[str, Statistics] = {
    # As in the code of wide ResNets (arXiv:1605.07146) and DenseNets (arXiv:1608.06993).
    "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    # torchvision's, which are for pixels from 0 to 1.
    "imagenet": (
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
}
"""Published statistics by the names that ``task.data.normalisation`` takes."""


def measured(images: Images, chosen: Indices) -> Statistics:
    """Measure the statistics of some images.

    They are computed from whole-number sums, so they are exact, in whatever order.

    Args:
        images: uint8 images (N, C, H, W).
        chosen: Positions of the images to measure.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for block in np.array_split(chosen, len(chosen) // BLOCK + 1):
        for channel in range(channels):
            counts[channel] += np.bincount(images[block, channel].ravel(), minlength=256)
    values = np.arange(256)
    pixels = counts[0].sum()
    mean = counts @ values / pixels
    variance = counts @ values**2 / pixels - mean**2
    # A channel with one value everywhere holds no information; it must not become NaN.
    std = np.sqrt(np.maximum(variance, 1.0))
    return tuple(mean.tolist()), tuple(std.tolist())
