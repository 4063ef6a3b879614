"""Validation error of models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdecay_search.training.feed import ValidationBatches


class Validation:
    """Errors on the validation part."""

    def __init__(self, batches: ValidationBatches, device: torch.device) -> None:
        self._batches = batches
        self._device = device

    def error(self, model: nn.Module) -> Tensor:
        """Images that ``model`` gets wrong, in percent: a float64 number left on the device."""
        return self.errors(model)[0]

    @torch.no_grad()
    def errors(self, *models: nn.Module) -> list[Tensor]:
        """As :meth:`error`, of several models in one pass over the images."""
        were_training = [model.training for model in models]
        for model in models:
            model.eval()
        wrong = torch.zeros(len(models), dtype=torch.int64, device=self._device)
        count = 0
        for images, labels in self._batches:
            count += len(labels)
            for index, model in enumerate(models):
                wrong[index] += (model(images).argmax(1) != labels).sum()
        for model, was_training in zip(models, were_training, strict=True):
            model.train(was_training)
        return list(100.0 * wrong.double() / count)
