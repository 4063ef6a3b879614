"""Data loaders of image files that are decoded while the network trains, in other processes.

What an image looks like in an epoch follows from the run's seed, the epoch and the image's position
among the training images: not from which process decodes it, how many processes there are, or where
the run was interrupted. Pixels travel between processes as uint8 and are normalised on the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert
from torchvision.transforms import v2

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.decoding import open_image
from kdecay_search.training.data.split import StreamedSplit
from kdecay_search.training.decoder_processes import (
    drain_signals_blocked,
    exit_with_parent,
    keep_sockets_short,
)
from kdecay_search.training.in_memory_loader import Normalisation, batch_plan, flips_images
from kdecay_search.training.process_group import ALONE, ProcessGroup
from kdecay_search.training.seeding import derived_seed, generator

DEFAULT_SIDE = 224
"""Side (pixels) of the images that networks get, unless ``task.data.image_size`` is set."""
RESIZE_RATIO = 256 / 224
"""For validation the shorter side is resized to this many times the side of the crop that is then
cut from the centre, as is usual for ImageNet."""

DECODER_LOST = (
    "a process that decodes images has ended; if the machine or /dev/shm was full, lower "
    "workers.decoders or task.batch_size"
)


class ImageRequest(NamedTuple):
    """One image that a decoder shall read."""

    path: bytes
    """The image file, as the file system spells it."""
    label: int
    """The image's class number, from 0."""
    seed: int | None
    """Seed of the random crop and flip; None for the centre crop of a validation image."""


PixelBatch = tuple[Tensor, Tensor]
"""uint8 images (N, C, H, W), channels last in memory, and int64 labels (N,); both on the CPU."""


class ImageDecoder(Dataset[PixelBatch]):
    """Decodes image files into batches of pixels; runs in the decoder processes.

    Training images get a random resized crop and, unless ``task.data.flip`` is false, a random
    horizontal flip (as in arXiv:1512.03385). Validation images are resized and cropped at the
    centre.
    """

    def __init__(self, data: DataSpec) -> None:
        side = data.image_size or DEFAULT_SIDE
        flip = v2.RandomHorizontalFlip(0.5 if flips_images(data) else 0.0)
        self._augment = v2.Compose([v2.RandomResizedCrop(side, antialias=True), flip])
        resize = v2.Resize(round(side * RESIZE_RATIO), antialias=True)
        self._centre = v2.Compose([resize, v2.CenterCrop(side)])

    def __getitems__(self, requests: list[ImageRequest]) -> PixelBatch | str:
        """Decode one batch.

        Returns:
            The batch, or the message of the :class:`DataError` that prevented it. An exception
            raised here would reach the training process with its traceback as its text.
        """
        try:
            pixels = np.stack([self._pixels(request.path, request.seed) for request in requests])
        except DataError as error:
            return str(error)
        labels = torch.tensor([request.label for request in requests])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels

    def _pixels(self, path: bytes, seed: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Decode and crop one image: uint8 (H, W, C)."""
        image = open_image(os.fsdecode(path))
        if seed is None:
            return np.asarray(self._centre(image))
        # torchvision draws from the global generator, which the network's dropout uses as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.asarray(self._augment(image))


class StreamingTrainLoader:
    """Iterates over the training images of a :class:`StreamedSplit`, epoch by epoch.

    As in :class:`kdecay_search.training.in_memory_loader.InMemoryTrainLoader`, the last images of
    an epoch are left out where they are too few to fill a batch.

    Args:
        data: Image size and flips.
        split: The files to train on.
        batch_size: Number of images in a batch.
        seed: The run's seed; it fixes order, crops and flips of every epoch.
        device: Where the batches go.
        decoders: Number of decoder processes; 0 decodes in this process.
        group: The ranks that train the run; each gets its own part of every batch.
        dtype: Type of the normalised images.

    Raises:
        DataError: A rank's part of a batch would have one image.
    """

    def __init__(
        self,
        data: DataSpec,
        split: StreamedSplit,
        batch_size: int,
        seed: int,
        device: torch.device,
        decoders: int,
        group: ProcessGroup = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._decoder = ImageDecoder(data)
        self._paths, self._labels = split.training_paths, split.training_labels
        self.size, self.steps_per_epoch = batch_plan(len(self._labels), batch_size, group.size)
        self._normalise = Normalisation(split, device, dtype)
        self._group = group
        self._seed, self._device, self._decoders = seed, device, decoders

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches ``(images, labels)`` of epoch ``number``, after ``done``."""
        requests = self._requests(number, done)
        for images, labels in decoded_batches(self._decoder, requests, self._decoders):
            yield to_device(images, labels, self._normalise, self._device)

    def _requests(self, number: int, done: int) -> Iterator[list[ImageRequest]]:
        random = generator("batches", self._seed, number)
        order = torch.randperm(len(self._labels), generator=random)
        for positions in torch.split(order, self.size)[done : self.steps_per_epoch]:
            yield [
                ImageRequest(
                    bytes(self._paths[position]),
                    int(self._labels[position]),
                    derived_seed(f"view/{number}", self._seed, position),
                )
                for position in self._group.part(positions).tolist()
            ]


class StreamingValidationLoader:
    """Iterates over the validation images of a :class:`StreamedSplit`, without augmentation.

    Args:
        data: Image size.
        split: The files to measure errors on.
        batch_size: Number of images in a batch; the last batch may be smaller.
        device: Where the batches go.
        decoders: Number of decoder processes; 0 decodes in this process.
        group: The ranks that train the run; each gets its own part of the images.
        dtype: Type of the normalised images.
    """

    def __init__(
        self,
        data: DataSpec,
        split: StreamedSplit,
        batch_size: int,
        device: torch.device,
        decoders: int,
        group: ProcessGroup = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._decoder = ImageDecoder(data)
        own = group.part(torch.arange(len(split.validation_labels))).numpy()
        self._paths, self._labels = split.validation_paths[own], split.validation_labels[own]
        self._size = batch_size
        self._normalise = Normalisation(split, device, dtype)
        self._device, self._decoders = device, decoders

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in decoded_batches(self._decoder, self._requests(), self._decoders):
            yield to_device(images, labels, self._normalise, self._device)

    def _requests(self) -> Iterator[list[ImageRequest]]:
        for start in range(0, len(self._labels), self._size):
            part = slice(start, start + self._size)
            pairs = zip(self._paths[part], self._labels[part], strict=True)
            yield [ImageRequest(bytes(path), int(label), None) for path, label in pairs]


def to_device(
    images: Tensor, labels: Tensor, normalise: Normalisation, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Move a batch to the device and normalise it there, channels last in memory."""
    if device.type == "cuda":  # pinned memory is copied while the device works
        images, labels = images.pin_memory(), labels.pin_memory()
    images = images.to(device, non_blocking=True)
    images = images.contiguous(memory_format=torch.channels_last)
    return normalise(images), labels.to(device, non_blocking=True)


def decoded_batches(
    decoder: ImageDecoder, requests: Iterable[list[ImageRequest]], decoders: int
) -> Iterator[PixelBatch]:
    """Decode one batch for each list of requests, in their order.

    The processes work ahead of the caller, and end with this iterator.

    Args:
        decoder: Decodes a batch.
        requests: The images of each batch.
        decoders: Number of processes wanted; no more are started than there are usable cores.

    Raises:
        DataError: An image cannot be decoded.
        RuntimeError: A decoder process was killed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(decoders, cores or 1)
    context = None
    if processes:
        # A server that has imported torch once forks the decoders. Forks of the training process
        # itself would have its GPU, its threads' locks and its database connections.
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        keep_sockets_short()
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_sampler=requests,
        num_workers=processes,
        collate_fn=default_convert,  # leaves batches as they are; messages, too
        worker_init_fn=exit_with_parent,
        multiprocessing_context=context,
        generator=torch.Generator(),  # without one, it draws from the global generator
    )
    with drain_signals_blocked() if processes else nullcontext():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch
    except (OSError, EOFError, RuntimeError) as error:  # depending on what torch was reading
        if not processes:
            raise
        raise RuntimeError(f"{DECODER_LOST} ({type(error).__name__}: {error})") from error
    finally:
        del batches  # ends the processes, even where an exception's traceback keeps this frame
