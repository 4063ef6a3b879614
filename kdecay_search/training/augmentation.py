"""Batches that are drawn, cropped, flipped and normalised on the device, all images at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data import AnySplit, Split
from kdecay_search.training.randomness import generator

CROP_SHARE = 8
"""Images are padded by their shorter side over this before they are cropped."""
VALIDATED_AT_ONCE = 512
"""Images."""
NOT_MIRRORED = ("digits",)
"""Data sets whose mirror images are others: a mirrored digit is not a digit."""


class Normalisation:
    """uint8 images (N, C, H, W) to floats with mean 0 and deviation 1 in every channel."""

    def __init__(self, split: AnySplit, device: torch.device) -> None:
        shape = (1, len(split.mean), 1, 1)
        mean = torch.tensor(split.mean, device=device).view(shape)
        self._scale = 1.0 / torch.tensor(split.std, device=device).view(shape)
        self._shift = -mean * self._scale

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift)


class Batches:
    """The training part, epoch by epoch.

    An epoch is a new order of all images; the last ones, too few to fill a batch, sit that epoch
    out, because batch norm on a small batch would disturb the running statistics and every update
    shall weigh the same. With fewer images than ``batch_size`` all of them are the one batch.

    Images stay padded and uint8 on the device, and one gather does selection, crop and flip.
    Padding in the mean's colour is zero after normalisation, as in the ResNet recipe, to within
    rounding.
    """

    def __init__(self, data: DataSpec, split: Split, batch_size: int, seed: int) -> None:
        images = split.training_images
        self.count, self._channels, self._height, self._width = images.shape
        self.size, self.steps_per_epoch = batch_plan(self.count, batch_size)
        self._padding = _padding(data, self._height, self._width)
        self._flip = flips(data)
        self._pixels = _padded_pixels(split, self._padding, data.padding_mode)
        self._labels = split.training_labels
        self._normalise = Normalisation(split, images.device)
        self._seed = seed

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of every batch of epoch ``number``, which alone fixes what is drawn,
        but for the first ``done``."""
        parts = [torch.split(part, self.size) for part in self._draw(number)]
        for order, rows, columns, mirrored in list(zip(*parts, strict=True))[done:]:
            if len(order) == self.size:
                yield self._batch(order, rows, columns, mirrored), self._labels[order]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The epoch's random numbers, one per image each: drawn once, moved to the device once."""
        random = generator("batches", self._seed, epoch)
        ends = 2 * self._padding + 1
        order = torch.randperm(self.count, generator=random)
        rows = torch.randint(ends, (self.count,), generator=random)
        columns = torch.randint(ends, (self.count,), generator=random)
        mirrored = torch.randint(2, (self.count,), generator=random).bool()
        if not self._flip:
            mirrored.zero_()
        device = self._labels.device
        return order.to(device), rows.to(device), columns.to(device), mirrored.to(device)

    def _batch(self, order: Tensor, rows: Tensor, columns: Tensor, mirrored: Tensor) -> Tensor:
        """Normalised images (N, C, H, W), channels last in memory."""
        device = order.device
        y = rows[:, None] + torch.arange(self._height, device=device)
        x = torch.arange(self._width, device=device).expand(len(order), -1)
        x = columns[:, None] + torch.where(mirrored[:, None], self._width - 1 - x, x)
        padded_height = self._height + 2 * self._padding
        padded_width = self._width + 2 * self._padding
        lines = order[:, None] * padded_height + y
        positions = lines[:, :, None] * padded_width + x[:, None, :]
        pixels = self._pixels.index_select(0, positions.flatten())
        pixels = pixels.view(len(order), self._height, self._width, self._channels)
        return self._normalise(pixels.permute(0, 3, 1, 2))


class HeldValidation:
    """The validation part, as it is: not cropped, not flipped."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._images = torch.split(split.validation_images, VALIDATED_AT_ONCE)
        self._labels = torch.split(split.validation_labels, VALIDATED_AT_ONCE)
        self._normalise = Normalisation(split, device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self._images, self._labels, strict=True):
            yield self._normalise(images).contiguous(memory_format=torch.channels_last), labels


def batch_plan(count: int, batch_size: int) -> tuple[int, int]:
    """(size, number) of the batches that an epoch makes of ``count`` images."""
    size = min(batch_size, count)
    if size == 1:
        raise DataError("task.batch_size = 1: batch norm needs two images; use 2 or more")
    return size, count // size


def flips(data: DataSpec) -> bool:
    """Whether images are mirrored at random."""
    return data.flip if data.flip is not None else data.name not in NOT_MIRRORED


def _padding(data: DataSpec, height: int, width: int) -> int:
    return data.crop_padding if data.crop_padding is not None else min(height, width) // CROP_SHARE


def _padded_pixels(split: Split, padding: int, mode: str) -> Tensor:
    """The training images with their padding as (pixels, C): every pixel's channels together."""
    images = split.training_images
    channels = [
        _mirrored(images[:, channel], padding)
        if mode == "reflect"
        else functional.pad(
            images[:, channel], (padding,) * 4, value=round(mean) if mode == "mean" else 0
        )
        for channel, mean in enumerate(split.mean)
    ]
    return torch.stack(channels, dim=-1).view(-1, len(channels))


def _mirrored(images: Tensor, padding: int) -> Tensor:
    """(N, H, W) padded by what lies inside, without repeating the edge: torch's reflection, which
    does not take uint8."""
    rows, columns = (_reflection(side, padding, images.device) for side in images.shape[1:])
    return images[:, rows[:, None], columns]


def _reflection(side: int, padding: int, device: torch.device) -> Tensor:
    """Positions −padding … side − 1 + padding, folded into 0 … side − 1 as often as it takes."""
    period = max(2 * (side - 1), 1)
    positions = torch.arange(-padding, side + padding, device=device) % period
    return torch.minimum(positions, period - positions)
