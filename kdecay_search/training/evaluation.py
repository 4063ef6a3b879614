"""Classification error of models on the images that a run is measured on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdecay_search.training.data_loaders import ValidationLoader
from kdecay_search.training.process_group import ALONE, ProcessGroup


class Evaluator:
    """Measures top-1 error: on the validation set in a search, on the test set in a confirmation.

    Args:
        loader: The images to measure on, the same at every pass.
        device: Where the models and the loader's batches are.
        group: The ranks that share the images. They count together, and evaluate the same models:
            those of rank 0.
    """

    def __init__(
        self, loader: ValidationLoader, device: torch.device, group: ProcessGroup = ALONE
    ) -> None:
        self._loader = loader
        self._device = device
        self._group = group

    def error(self, model: nn.Module) -> Tensor:
        """Top-1 error of one model in percent: a float64 scalar that stays on the device."""
        return self.errors(model)[0]

    @torch.no_grad()
    def errors(self, *models: nn.Module) -> list[Tensor]:
        """Top-1 errors of several models in one pass over the images.

        Args:
            *models: Models that map (N, C, H, W) images to (N, classes) logits. They are evaluated
                in eval mode and put back into the mode they were in.

        Returns:
            One float64 scalar per model, in percent. They stay on the device, so that the caller
            decides when to wait for it.
        """
        self._group.broadcast(models)
        were_training = [model.training for model in models]
        for model in models:
            model.eval()
        wrong = torch.zeros(len(models), dtype=torch.int64, device=self._device)
        count = 0
        for images, labels in self._loader:
            count += len(labels)
            for index, model in enumerate(models):
                wrong[index] += (model(images).argmax(1) != labels).sum()
        for model, was_training in zip(models, were_training, strict=True):
            model.train(was_training)
        *wrongs, whole = self._group.summed(torch.cat([wrong, wrong.new_tensor([count])])).double()
        return [100.0 * wrong / whole for wrong in wrongs]
