"""The training loop that a user would write, as the reference for ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

LOADERS = 2
"""Number of worker processes of the DataLoader, as in tutorials."""
PREFETCH = 2
"""Number of batches that each of them prepares in advance, torch's default."""
READY_BATCHES = LOADERS * PREFETCH
"""Largest number of batches that are ready before a step asks for one."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Decoded images, cropped, flipped and normalised one by one."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """
        Args:
            images: N images, (N, H, W, 3).
            labels: Their classes, (N,).
        """
        self._images, self._labels = images, labels
        size = images.shape[1]
        mean, std = images.mean((0, 1, 2)) / 255, images.std((0, 1, 2)) / 255
        self._transform = transforms.Compose([
            transforms.RandomCrop(size, padding=size // 8),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean.tolist(), std.tolist()),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self._images[index])
        return self._transform(picture), int(self._labels[index])


class PlainLoop:
    """A DataLoader with worker processes, SGD with Nesterov momentum, a torch scheduler, fp32."""

    def __init__(
        self,
        model: nn.Module,
        pictures: Pictures,
        batch_size: int,
        epochs: int,
        lr: tuple[float, float],
        device: torch.device,
    ) -> None:
        """
        Args:
            model: The network.
            pictures: The training images.
            batch_size: Images of an update.
            epochs: Length of the schedule.
            lr: First and last learning rate of a linear schedule.
            device: Where to train.
        """
        self.model = model.to(device)
        self._device = device
        self._loader = DataLoader(
            pictures,
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=LOADERS,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr[0], momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        last, steps = lr[1] / lr[0], epochs * len(self._loader)
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: 1 - (1 - last) * min(step / steps, 1)
        )
        self._batches = _forever(self._loader)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer updates in an epoch."""
        return len(self._loader)

    def step(self) -> None:
        """Train on one batch."""
        images, labels = next(self._batches)
        images, labels = images.to(self._device), labels.to(self._device)
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self._optimizer.step()
        self._scheduler.step()


def _forever(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after another. It refers to the loader only, so that the loader's
    processes end with the loop."""
    while True:
        yield from loader
