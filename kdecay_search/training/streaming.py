"""Batches of images that are decoded while the network trains, in processes of their own.

What an image looks like in an epoch follows from the run's seed, the epoch and the image's position
in the training part, whichever process decodes it, however many there are, and wherever the run was
interrupted. Pixels travel as uint8 and are normalised on the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from kdecay_search.errors import DataError
from kdecay_search.spec import DataSpec
from kdecay_search.training.augmentation import Normalisation, batch_plan, flips
from kdecay_search.training.data import StreamedSplit
from kdecay_search.training.data.decoding import opened
from kdecay_search.training.data.source import Labels, Paths
from kdecay_search.training.processes import follow_parent, shielded
from kdecay_search.training.randomness import derived_seed, generator

SIDE = 224
"""Pixels, of the views that networks are trained on."""
MARGIN = 256 / 224
"""For validation, images are scaled to this many times that before their middle is cut out."""

Key = tuple[int, int | None]
"""An image's position, and the seed of its view; None for the view to validate on."""

Pixels = tuple[Tensor, Tensor]
"""uint8 (N, C, H, W), channels last in memory, and int64 (N,), on the CPU."""


class Views(Dataset[Pixels]):
    """Decodes images: to train on, random resized crops, mirrored or not (as in
    arXiv:1512.03385); to validate on, scaled, and their middle."""

    def __init__(self, paths: Paths, labels: Labels, data: DataSpec) -> None:
        self._paths, self._labels = paths, labels
        side = data.image_size or SIDE
        mirror = v2.RandomHorizontalFlip(0.5 if flips(data) else 0.0)
        self._random = v2.Compose([v2.RandomResizedCrop(side, antialias=True), mirror])
        scale = v2.Resize(round(side * MARGIN), antialias=True)
        self._middle = v2.Compose([scale, v2.CenterCrop(side)])

    def __getitems__(self, keys: list[Key]) -> Pixels | str:
        """One batch, or why there is none: an exception would come out of a process with its
        traceback as its text."""
        try:
            pixels = np.stack([self._view(*key) for key in keys])
        except DataError as error:
            return str(error)
        labels = self._labels[[position for position, _ in keys]]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def _view(self, position: int, seed: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(H, W, C)."""
        picture = opened(os.fsdecode(self._paths[position]))
        if seed is None:
            return np.asarray(self._middle(picture))
        # torchvision draws from the global generator, which the network's dropout uses as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.asarray(self._random(picture))


class StreamedBatches:
    """The training part; as :class:`kdecay_search.training.augmentation.Batches`, an epoch leaves
    out the last images where they are too few to fill a batch."""

    def __init__(
        self,
        data: DataSpec,
        split: StreamedSplit,
        batch_size: int,
        seed: int,
        device: torch.device,
        decoders: int,
    ) -> None:
        self._views = Views(split.training_paths, split.training_labels, data)
        self._count = len(split.training_labels)
        self._size, self.steps_per_epoch = batch_plan(self._count, batch_size)
        self._normalise = Normalisation(split, device)
        self._seed, self._device, self._decoders = seed, device, decoders

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in decoded(self._views, self._keys(number, done), self._decoders):
            yield on_device(images, labels, self._normalise, self._device)

    def _keys(self, number: int, done: int) -> Iterator[list[Key]]:
        order = torch.randperm(self._count, generator=generator("batches", self._seed, number))
        for positions in torch.split(order, self._size)[done : self.steps_per_epoch]:
            yield [
                (position, derived_seed(f"view/{number}", self._seed, position))
                for position in positions.tolist()
            ]


class StreamedValidation:
    """The validation part."""

    def __init__(
        self,
        data: DataSpec,
        split: StreamedSplit,
        batch_size: int,
        device: torch.device,
        decoders: int,
    ) -> None:
        self._views = Views(split.validation_paths, split.validation_labels, data)
        self._positions = torch.split(torch.arange(len(split.validation_labels)), batch_size)
        self._normalise = Normalisation(split, device)
        self._device, self._decoders = device, decoders

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in decoded(self._views, self._keys(), self._decoders):
            yield on_device(images, labels, self._normalise, self._device)

    def _keys(self) -> Iterator[list[Key]]:
        for part in self._positions:
            yield [(position, None) for position in part.tolist()]


def on_device(
    images: Tensor, labels: Tensor, normalise: Normalisation, device: torch.device
) -> tuple[Tensor, Tensor]:
    if device.type == "cuda":  # copied while the device works
        images, labels = images.pin_memory(), labels.pin_memory()
    images = images.to(device, non_blocking=True)
    images = images.contiguous(memory_format=torch.channels_last)
    return normalise(images), labels.to(device, non_blocking=True)


def decoded(views: Views, keys: Iterable[list[Key]], decoders: int) -> Iterator[Pixels]:
    """One batch for each of ``keys``, in their order, decoded ahead by as many processes as were
    asked for and there are cores. They end with the iterator."""
    processes = min(decoders, _cores())
    loader: DataLoader[Any] = DataLoader(
        views,
        batch_sampler=keys,
        num_workers=processes,
        collate_fn=_as_it_is,
        worker_init_fn=follow_parent,
        multiprocessing_context=_context() if processes else None,
        generator=torch.Generator(),  # else it draws from the global one
    )
    with shielded() if processes else nullcontext():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch
    finally:
        del batches  # ends the processes, even where an exception's traceback keeps this frame


def _as_it_is(batch: Any) -> Any:
    return batch


def _context() -> Any:
    """A server that has imported torch once and forks the decoders. Forks of the training itself
    would have its GPU, its threads' locks and its database connections."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
