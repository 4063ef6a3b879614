"""Search the learning-rate schedule of a Lightning ``Trainer``. See docs/own-code.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size

from kdecay_search.errors import TaskError
from kdecay_search.training.averaging import SwappedAverage
from kdecay_search.user_code.random_state import get_random_state, set_random_state
from kdecay_search.user_code.run import TaskRun

__all__ = ["KDecayCallback"]

PREFIX = "epoch-"
"""How the file names of checkpoints begin."""


class KDecayCallback(Callback):
    """Sets the learning rate by the run's schedule, and reports every epoch.

    The learning rate is set just before each update, so a scheduler of your own is overruled. Pass
    ``ckpt_path=callback.ckpt_path`` to ``Trainer.fit`` so that an interrupted run resumes.

    Args:
        run: What your training function got.
        monitor: The metric that your ``validation_step`` logs.
        percent: Turns this metric into an error in percent, such as
            ``lambda accuracy: 100 - 100 * accuracy``.
        averaged: Whether to validate the averaged weights as well, by calling your
            ``validation_step`` a second time after every epoch. Without it, no run ends early.
        base_lr: The ``lr`` that stands for the schedule's, where parameter groups differ in ``lr``;
            see :meth:`TaskRun.drive`.
    """

    def __init__(
        self,
        run: TaskRun,
        monitor: str = "val_error",
        percent: Callable[[float], float] = float,
        averaged: bool = True,
        base_lr: float | None = None,
    ) -> None:
        self._run, self._monitor, self._percent = run, monitor, percent
        self._base_lr = base_lr
        self._averages = averaged
        self._average: SwappedAverage | None = None
        self._saves_checkpoints = False
        self._restored: dict[str, Any] | None = None

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint to resume from; None if there is none.

        Once it has been asked for, a checkpoint is saved after every epoch.
        """
        if not self._saves_checkpoints:
            self._saves_checkpoints = True
            self._restored = self._run.resume()
        if self._restored is None:
            return None
        return str(self._run.checkpoint_dir / self._restored["file"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random generators, before the order of the first epoch is drawn."""
        if self._restored is not None:
            set_random_state(self._restored["random"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the schedule drive all optimizers, and set up the average of the weights."""
        run = self._run
        if trainer.max_epochs != run.epochs:
            raise TaskError(
                f"Trainer(max_epochs={trainer.max_epochs}): task.epochs = {run.epochs} in the "
                "study file; write max_epochs=run.epochs"
            )
        run.steps_per_epoch = int(trainer.estimated_stepping_batches) // run.epochs
        for optimizer in trainer.optimizers:
            run.drive(optimizer, base_lr=self._base_lr)
        if self._averages:
            self._average = run.average(pl_module, trainer.optimizers[0])
        if self._restored is not None and self._average is not None:
            self._average.load_state_dict(self._restored["average"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch, and save a checkpoint if an interrupted run is to resume."""
        number, metrics = trainer.current_epoch + 1, trainer.callback_metrics
        if self._monitor not in metrics:
            raise TaskError(
                f"no metric {self._monitor!r} after epoch {number}: log it in validation_step, "
                f"in every epoch; logged: {', '.join(metrics) or 'nothing'}"
            )
        error = self._percent(float(metrics[self._monitor]))
        loss = metrics.get("train_loss")
        with _random_state_preserved():
            averaged = self._averaged_error(trainer, pl_module)
        self._run.report(number, error, averaged, loss=None if loss is None else float(loss))
        if self._saves_checkpoints:
            self._save_checkpoint(trainer, number)

    def _averaged_error(self, trainer: Trainer, module: LightningModule) -> float | None:
        """Return the monitored metric of the averaged weights, by the module's own validation."""
        if self._average is None:
            return None
        metric = _LoggedMetric(self._monitor)
        with self._average, torch.no_grad(), _logging_to(module, metric):
            module.on_validation_epoch_start()
            for index, batch in enumerate(_validation_batches(trainer)):
                moved = trainer.strategy.batch_to_device(batch)
                metric.batch_size = extract_batch_size(moved)
                with trainer.precision_plugin.val_step_context():
                    module.validation_step(moved, index)
            module.on_validation_epoch_end()
        return self._percent(metric.mean())

    def _save_checkpoint(self, trainer: Trainer, number: int) -> None:
        """Save the epoch's checkpoint; older ones are removed once it is known to be whole."""
        folder, name = self._run.checkpoint_dir, f"{PREFIX}{number}.ckpt"
        trainer.save_checkpoint(folder / name)
        average = None if self._average is None else self._average.state_dict()
        self._run.save({"file": name, "average": average, "random": get_random_state()})
        for old in folder.glob(f"{PREFIX}*.ckpt"):
            if old.name != name:
                old.unlink()


class _LoggedMetric:
    """Stands in for a module's ``log`` method: the mean of one metric over all samples."""

    def __init__(self, name: str) -> None:
        self.batch_size = 1
        self._name = name
        self._sum, self._samples = 0.0, 0
        self._metric: Any = None

    def __call__(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        if name != self._name:
            return
        if hasattr(value, "compute"):  # a torchmetrics object gathers by itself
            self._metric = value
            return
        size = options.get("batch_size") or self.batch_size
        self._sum += float(value) * size
        self._samples += size

    def mean(self) -> float:
        if self._metric is None:
            return self._sum / self._samples
        value = float(self._metric.compute())
        self._metric.reset()
        return value


@contextmanager
def _logging_to(module: LightningModule, metric: _LoggedMetric) -> Iterator[None]:
    module.log = metric  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log


@contextmanager
def _random_state_preserved() -> Iterator[None]:
    """Undo what the second validation draws, so that it does not change the training."""
    before = get_random_state()
    try:
        yield
    finally:
        set_random_state(before)


def _validation_batches(trainer: Trainer) -> Iterator[Any]:
    loader: Any = trainer.val_dataloaders
    most = trainer.num_val_batches
    if isinstance(loader, list | tuple | dict) or len(most) > 1:
        raise TaskError(
            "KDecayCallback validates averaged weights with one validation loader, but there are "
            "several; KDecayCallback(run, averaged=False) leaves that out"
        )
    for index, batch in enumerate(loader):
        if index >= most[0]:
            return
        yield batch
