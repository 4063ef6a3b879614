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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.augmentation import Normalisation, batch_plan, flips
from kdecay_search.training.data import StreamedSplit
from kdecay_search.training.data.decoding import opened
from kdecay_search.training.processes import follow_parent, shielded
from kdecay_search.training.randomness import derived_seed, generator

SIDE = 224
"""Pixels, of the views that networks are trained on."""
MARGIN = 256 / 224
"""For validation, images are scaled to this many times that before their middle is cut out."""

LOST = (
    "a process that decodes images has ended; if the machine or /dev/shm was full, lower "
    "workers.decoders or task.batch_size"
)


class View(NamedTuple):
    """What a decoder is asked for."""

    path: bytes
    label: int
    seed: int | None
    """Of the crop and the flip; None for the view to validate on."""


Pixels = tuple[Tensor, Tensor]
"""uint8 (N, C, H, W), channels last in memory, and int64 (N,), on the CPU."""


class Images(Dataset[Pixels]):
    """Decodes images: to train on, random resized crops, mirrored or not (as in
    arXiv:1512.03385); to validate on, scaled, and their middle."""

    def __init__(self, data: DataSpec) -> None:
        side = data.image_size or SIDE
        mirror = v2.RandomHorizontalFlip(0.5 if flips(data) else 0.0)
        self._random = v2.Compose([v2.RandomResizedCrop(side, antialias=True), mirror])
        scale = v2.Resize(round(side * MARGIN), antialias=True)
        self._middle = v2.Compose([scale, v2.CenterCrop(side)])

    def __getitems__(self, views: list[View]) -> Pixels | str:
        """One batch, or why there is none: an exception would come out of a process with its
        traceback as its text."""
        try:
            pixels = np.stack([self._pixels(view.path, view.seed) for view in views])
        except DataError as error:
            return str(error)
        labels = torch.tensor([view.label for view in views])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels

    def _pixels(self, path: bytes, seed: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(H, W, C)."""
        picture = opened(os.fsdecode(path))
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
        self._images = Images(data)
        self._paths, self._labels = split.training_paths, split.training_labels
        self._size, self.steps_per_epoch = batch_plan(len(self._labels), batch_size)
        self._normalise = Normalisation(split, device)
        self._seed, self._device, self._decoders = seed, device, decoders

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in decoded(self._images, self._views(number, done), self._decoders):
            yield on_device(images, labels, self._normalise, self._device)

    def _views(self, number: int, done: int) -> Iterator[list[View]]:
        random = generator("batches", self._seed, number)
        order = torch.randperm(len(self._labels), generator=random)
        for positions in torch.split(order, self._size)[done : self.steps_per_epoch]:
            yield [
                View(
                    bytes(self._paths[position]),
                    int(self._labels[position]),
                    derived_seed(f"view/{number}", self._seed, position),
                )
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
        self._images = Images(data)
        self._paths, self._labels = split.validation_paths, split.validation_labels
        self._size = batch_size
        self._normalise = Normalisation(split, device)
        self._device, self._decoders = device, decoders

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in decoded(self._images, self._views(), self._decoders):
            yield on_device(images, labels, self._normalise, self._device)

    def _views(self) -> Iterator[list[View]]:
        for start in range(0, len(self._labels), self._size):
            part = slice(start, start + self._size)
            pairs = zip(self._paths[part], self._labels[part], strict=True)
            yield [View(bytes(path), int(label), None) for path, label in pairs]


def on_device(
    images: Tensor, labels: Tensor, normalise: Normalisation, device: torch.device
) -> tuple[Tensor, Tensor]:
    if device.type == "cuda":  # copied while the device works
        images, labels = images.pin_memory(), labels.pin_memory()
    images = images.to(device, non_blocking=True)
    images = images.contiguous(memory_format=torch.channels_last)
    return normalise(images), labels.to(device, non_blocking=True)


def decoded(images: Images, views: Iterable[list[View]], decoders: int) -> Iterator[Pixels]:
    """One batch for each of ``views``, in their order, decoded ahead by as many processes as were
    asked for and there are cores. They end with the iterator."""
    processes = min(decoders, _cores())
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=views,
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
    except (OSError, EOFError, RuntimeError) as error:  # whatever torch was about to read
        if not processes:
            raise
        raise RuntimeError(f"{LOST} ({type(error).__name__}: {error})") from error
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
