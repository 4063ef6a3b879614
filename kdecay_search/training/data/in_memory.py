"""Data sets whose images are decoded when they are read, such as CIFAR and the digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from kdecay_search.training.data.dataset import ImageDataset, Images, Indices, Labels
from kdecay_search.training.data.held_out import HeldOutTestSet


def in_memory_dataset(
    name: str,
    training: tuple[Images, Labels],
    test: Callable[[], tuple[Images, Labels]],
    class_names: Sequence[str],
    image_size: int | None,
) -> ImageDataset:
    """Make a data set of images that are already decoded.

    Args:
        name: The data set as messages name it.
        training: Images and labels of the training set.
        test: Reads images and labels of the test set.
        class_names: Names of the classes, by class number.
        image_size: Side (pixels) to which all images are resized; None keeps their size.
    """
    images, labels = training

    def read_test() -> tuple[Images, Labels]:
        test_images, test_labels = test()
        return _resized(test_images, image_size), test_labels

    def decode(chosen: Indices) -> Images:
        return _resized(images[chosen], image_size)

    return ImageDataset(name, labels, class_names, decode, HeldOutTestSet(read_test))


def _resized(images: Images, size: int | None) -> Images:
    if size is None or images.shape[2:] == (size, size):
        return images
    pixels = functional.interpolate(
        torch.from_numpy(images).float(), (size, size), mode="bilinear", antialias=True
    )
    resized: Images = pixels.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return resized
