"""The image task with several averages of one training, for :mod:`benchmarks.record`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.recording import DIVERGED_ERROR
from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.tasks.protocol import Epoch, Run
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import Split
from kdecay_search.training.device import make_deterministic, resolve_device
from kdecay_search.training.seeding import forked_rng
from kdecay_search.training.trainer import Trainer


def train(run: Run, task: ImagesTask, windows: Sequence[float]) -> dict[float, list[float | None]]:
    """Train as :func:`kdecay_search.training.trainer.train` does, to the bit.

    Args:
        run: The run to train.
        task: Its task.
        windows: Half-lives of the averages, in epochs.

    Returns:
        Validation errors (%) of each average after each epoch, by its half-life.
    """
    device = resolve_device(run.device)
    make_deterministic(task.threads)
    split = load(task.data, device)
    with forked_rng("model", run.seed, device):
        training = _WithAverages(run, task, split, device, windows)
        training.fit()
    return training.errors


class _WithAverages(Trainer):
    """A training that keeps further averages beside its own.

    They only read the weights, so everything else is as it is without them.
    """

    def __init__(
        self,
        run: Run,
        task: ImagesTask,
        split: Split,
        device: torch.device,
        windows: Sequence[float],
    ) -> None:
        super().__init__(run, task, split, device)
        steps = self._train_loader.steps_per_epoch
        self._averages = {w: AveragedModel(self._model, w * steps) for w in windows}
        self.errors: dict[float, list[float | None]] = {window: [] for window in windows}

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = super()._train_step(images, labels)
        for averages in self._averages.values():
            averages.update()
        return loss

    def _train_epoch(self, number: int) -> Epoch:
        epoch = super()._train_epoch(number)
        with self._autocast():
            for window, averages in self._averages.items():
                error = float(self._evaluator.error(averages.model))
                self.errors[window].append(DIVERGED_ERROR if epoch.diverged else error)
        return epoch
