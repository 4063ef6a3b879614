"""The images task with several averages of one training: the only benchmark that needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.tasks.protocol import DIVERGED_ERROR, Epoch, Run
from kdecay_search.training.averaging import AveragedWeights
from kdecay_search.training.data import Split, load
from kdecay_search.training.device import make_deterministic, resolve
from kdecay_search.training.images import Training
from kdecay_search.training.randomness import isolated


def train(run: Run, task: ImagesTask, windows: Sequence[float]) -> dict[float, list[float | None]]:
    """As :func:`kdecay_search.training.images.train`, to the bit; returns the errors (%) of the
    averages after each epoch, by their half-life in epochs."""
    device = resolve(run.device)
    make_deterministic(task.threads)
    split = load(task.data, device)
    with isolated("model", run.seed, device):
        training = _WithAverages(run, task, split, device, windows)
        training.all_epochs()
    return training.errors


class _WithAverages(Training):
    """A training that keeps further averages beside its own. They only read the weights, so that
    everything else is as without them."""

    def __init__(
        self,
        run: Run,
        task: ImagesTask,
        split: Split,
        device: torch.device,
        windows: Sequence[float],
    ) -> None:
        super().__init__(run, task, split, device)
        steps = self._batches.steps_per_epoch
        self._averages = {w: AveragedWeights(self._model, w * steps) for w in windows}
        self.errors: dict[float, list[float | None]] = {window: [] for window in windows}

    def _update(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = super()._update(images, labels)
        for averages in self._averages.values():
            averages.update()
        return loss

    def _epoch(self, number: int) -> Epoch:
        epoch = super()._epoch(number)
        with self._precision():
            for window, averages in self._averages.items():
                error = float(self._validation.error(averages.model))
                self.errors[window].append(DIVERGED_ERROR if epoch.diverged else error)
        return epoch
