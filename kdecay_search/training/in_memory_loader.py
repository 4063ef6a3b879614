"""Data loaders of images that are held on the device: shuffled, cropped, flipped and normalised.

Augmentation is that of the ResNet recipe (arXiv:1512.03385, section 4.2): pad, crop at random, flip
at random. It is done on the device, for all images of a batch at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.split import AnySplit, Split
from kdecay_search.training.process_group import ALONE, ProcessGroup
from kdecay_search.training.seeding import generator

CROP_PADDING_DIVISOR = 8
"""By default images are padded by their shorter side divided by this: 4 pixels at 32, as in the
ResNet recipe."""
VALIDATION_BATCH_SIZE = 512
"""Number of images in a batch of the validation loader."""
NEVER_FLIPPED = ("digits",)
"""Data sets that are not flipped by default, because a mirrored digit is not a digit."""


class Normalisation:
    """Normalises images to mean 0 and standard deviation 1 in every channel.

    Args:
        split: Holds the channels' means and standard deviations, in 0 … 255.
        device: Where the images are.
        dtype: Type of the normalised images.
    """

    def __init__(
        self, split: AnySplit, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._dtype = dtype
        shape = (1, len(split.mean), 1, 1)
        mean = torch.tensor(split.mean, device=device, dtype=dtype).view(shape)
        self._scale = 1.0 / torch.tensor(split.std, device=device, dtype=dtype).view(shape)
        self._shift = -mean * self._scale

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 images (N, C, H, W) to floating-point images of the same shape."""
        return images.to(self._dtype, copy=True).mul_(self._scale).add_(self._shift)


class InMemoryTrainLoader:
    """Iterates over the training images of a :class:`Split`, epoch by epoch.

    Every epoch is a new random order of all images. The last images, too few to fill a batch, are
    left out of that epoch: batch norm on a small batch would disturb the running statistics, and
    every update shall weigh the same. With fewer images than ``batch_size`` all of them make one
    batch.

    Images stay padded and uint8 on the device, and one gather selects, crops and flips a batch.
    Padding with the mean colour is zero after normalisation to within rounding, as in the ResNet
    recipe.

    Args:
        data: Crop padding, padding mode and flips.
        split: The images to train on.
        batch_size: Number of images in a batch.
        seed: The run's seed; it fixes order, crops and flips of every epoch.
        group: The ranks that train the run; each gets its own part of every batch.
        dtype: Type of the normalised images.

    Raises:
        DataError: A rank's part of a batch would have one image.
    """

    def __init__(
        self,
        data: DataSpec,
        split: Split,
        batch_size: int,
        seed: int,
        group: ProcessGroup = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        images = split.training_images
        self.count, self._channels, self._height, self._width = images.shape
        self.size, self.steps_per_epoch = batch_plan(self.count, batch_size, group.size)
        self._group = group
        self._padding = (
            data.crop_padding
            if data.crop_padding is not None
            else min(self._height, self._width) // CROP_PADDING_DIVISOR
        )
        self._flip = flips_images(data)
        self._pixels = _padded_pixels(split, self._padding, data.padding_mode)
        self._labels = split.training_labels
        self._normalise = Normalisation(split, images.device, dtype)
        self._seed = seed

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches ``(images, labels)`` of epoch ``number``, after ``done``."""
        drawn = [torch.split(numbers, self.size) for numbers in self._draw(number)]
        for batch in list(zip(*drawn, strict=True))[done : self.steps_per_epoch]:
            order, rows, columns, flipped = map(self._group.part, batch)
            yield self._batch(order, rows, columns, flipped), self._labels[order]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw an epoch's random numbers, one of each kind per image.

        They are drawn on the CPU, so that every device gets the same, and moved in one piece.

        Returns:
            The order of the images, the row and the column where each crop starts in the padded
            image, and whether it is flipped; each (N,) on the device.
        """
        random = generator("batches", self._seed, epoch)
        ends = 2 * self._padding + 1
        order = torch.randperm(self.count, generator=random)
        rows = torch.randint(ends, (self.count,), generator=random)
        columns = torch.randint(ends, (self.count,), generator=random)
        flipped = torch.randint(2, (self.count,), generator=random).bool()
        if not self._flip:
            flipped.zero_()
        device = self._labels.device
        return order.to(device), rows.to(device), columns.to(device), flipped.to(device)

    def _batch(self, order: Tensor, rows: Tensor, columns: Tensor, flipped: Tensor) -> Tensor:
        """Gather one batch: normalised images (N, C, H, W), channels last in memory."""
        device = order.device
        y = rows[:, None] + torch.arange(self._height, device=device)
        x = torch.arange(self._width, device=device).expand(len(order), -1)
        x = columns[:, None] + torch.where(flipped[:, None], self._width - 1 - x, x)
        padded_height = self._height + 2 * self._padding
        padded_width = self._width + 2 * self._padding
        lines = order[:, None] * padded_height + y
        positions = lines[:, :, None] * padded_width + x[:, None, :]
        pixels = self._pixels.index_select(0, positions.flatten())
        pixels = pixels.view(len(order), self._height, self._width, self._channels)
        return self._normalise(pixels.permute(0, 3, 1, 2))


class InMemoryValidationLoader:
    """Iterates over the validation images of a :class:`Split`, without augmentation.

    Each rank of ``group`` gets its own part of them, as images of type ``dtype``.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        group: ProcessGroup = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._images = torch.split(group.part(split.validation_images), VALIDATION_BATCH_SIZE)
        self._labels = torch.split(group.part(split.validation_labels), VALIDATION_BATCH_SIZE)
        self._normalise = Normalisation(split, device, dtype)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self._images, self._labels, strict=True):
            yield self._normalise(images).contiguous(memory_format=torch.channels_last), labels


def batch_plan(count: int, batch_size: int, ranks: int = 1) -> tuple[int, int]:
    """Size and number of an epoch's batches.

    Args:
        count: Number of images to train on.
        batch_size: ``task.batch_size`` of the study.
        ranks: Number of processes that share each batch.

    Returns:
        The number of images in a batch, at most ``count``, and the number of full batches.

    Raises:
        DataError: A process would have one image, which batch norm cannot train on.
    """
    size = min(batch_size, count)
    if size < 2 * ranks:
        needs = "two images" if ranks == 1 else f"two images on each of {ranks} devices"
        raise DataError(
            f"task.batch_size = {size}: batch norm needs {needs}; use {2 * ranks} or more"
        )
    return size, count // size


def flips_images(data: DataSpec) -> bool:
    """Whether training images are flipped horizontally at random."""
    return data.flip if data.flip is not None else data.name not in NEVER_FLIPPED


def _padded_pixels(split: Split, padding: int, mode: str) -> Tensor:
    """The training images with their padding, as uint8 (N · height · width, C).

    The channels of a pixel lie together, so that a gather of pixels gives channels-last images.
    """
    images = split.training_images
    channels = [
        _reflection_padded(images[:, channel], padding)
        if mode == "reflect"
        else functional.pad(
            images[:, channel], (padding,) * 4, value=round(mean) if mode == "mean" else 0
        )
        for channel, mean in enumerate(split.mean)
    ]
    return torch.stack(channels, dim=-1).view(-1, len(channels))


def _reflection_padded(images: Tensor, padding: int) -> Tensor:
    """Pad images (N, H, W) by reflection, without repeating the edge.

    torch's own reflection padding takes neither uint8 nor a padding wider than the image. Here the
    positions −padding … side − 1 + padding are folded back into 0 … side − 1 as often as needed.
    """

    def folded(side: int) -> Tensor:
        period = max(2 * (side - 1), 1)
        positions = torch.arange(-padding, side + padding, device=images.device) % period
        return torch.minimum(positions, period - positions)

    rows, columns = (folded(side) for side in images.shape[1:])
    return images[:, rows[:, None], columns]
