"""Validation error of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdecay_search.training.augmentation import Normalisation
from kdecay_search.training.data import Split

BATCH = 512
"""Images evaluated at a time."""


class Validation:
    """The validation part, as it is: not cropped, not flipped."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._images = split.validation_images
        self._labels = split.validation_labels
        self._normalise = Normalisation(split, device)

    @torch.no_grad()
    def error(self, model: nn.Module) -> Tensor:
        """Images that ``model`` gets wrong, in percent: a float64 number left on the device."""
        was_training = model.training
        model.eval()
        wrong = torch.zeros((), dtype=torch.int64, device=self._labels.device)
        parts = torch.split(self._images, BATCH), torch.split(self._labels, BATCH)
        for images, labels in zip(*parts, strict=True):
            inputs = self._normalise(images).contiguous(memory_format=torch.channels_last)
            wrong += (model(inputs).argmax(1) != labels).sum()
        model.train(was_training)
        return 100.0 * wrong.double() / len(self._labels)
