"""Your own training code in Lightning: a callback for its Trainer. See docs/own-code.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size

from kdecay_search.errors import TaskError
from kdecay_search.training.averaging import SwappedAverage
from kdecay_search.user_code import state as states
from kdecay_search.user_code.run import TaskRun

__all__ = ["KDecayCallback"]

PREFIX = "epoch-"
"""Of the checkpoints' names."""


class KDecayCallback(Callback):
    """Drives the LR by the run's schedule, and reports every epoch.

    ``run``: what your function got. ``monitor``: the metric that your ``validation_step`` logs, and
    ``percent`` turns it into an error in percent, such as ``lambda accuracy: 100 - 100 *
    accuracy``. ``averaged``: validate the averaged weights, too, by a second pass of your
    ``validation_step`` over the data; without it no run ends early.

    ``Trainer.fit(..., ckpt_path=callback.ckpt_path)`` goes on where an interrupted run stood. A
    scheduler of your own is overruled: the LR is set just before each update.
    """

    def __init__(
        self,
        run: TaskRun,
        monitor: str = "val_error",
        percent: Callable[[float], float] = float,
        averaged: bool = True,
    ) -> None:
        self._run, self._monitor, self._percent = run, monitor, percent
        self._averages = averaged
        self._average: SwappedAverage | None = None
        self._keeps = False
        self._kept: dict[str, Any] | None = None

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint to go on from, if there is one. Who asks gets one kept every epoch."""
        if not self._keeps:
            self._keeps = True
            self._kept = self._run.resume()
        return None if self._kept is None else str(self._run.checkpoint_dir / self._kept["file"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._kept is not None:  # now: the first epoch's order is drawn before it starts
            states.set_random_state(self._kept["random"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = self._run
        if trainer.max_epochs != run.epochs:
            raise TaskError(
                f"Trainer(max_epochs={trainer.max_epochs}): task.epochs = {run.epochs} in the "
                "study file; write max_epochs=run.epochs"
            )
        run.steps_per_epoch = int(trainer.estimated_stepping_batches) // run.epochs
        for optimizer in trainer.optimizers:
            run.drive(optimizer)
        if self._averages:
            self._average = run.average(pl_module, trainer.optimizers[0])
        if self._kept is not None and self._average is not None:
            self._average.load_state_dict(self._kept["average"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number, metrics = trainer.current_epoch + 1, trainer.callback_metrics
        if self._monitor not in metrics:
            raise TaskError(
                f"no metric {self._monitor!r} after epoch {number}: log it in validation_step, "
                f"in every epoch; logged: {', '.join(metrics) or 'nothing'}"
            )
        error = self._percent(float(metrics[self._monitor]))
        loss = metrics.get("train_loss")
        with _undisturbed():
            averaged = self._averaged_error(trainer, pl_module)
        self._run.report(number, error, averaged, loss=None if loss is None else float(loss))
        if self._keeps:
            self._keep(trainer, number)

    def _averaged_error(self, trainer: Trainer, module: LightningModule) -> float | None:
        """The monitored metric of the averaged weights, by the module's own validation."""
        if self._average is None:
            return None
        logged = _Logged(self._monitor)
        with self._average, torch.no_grad(), _captured(module, logged):
            module.on_validation_epoch_start()
            for index, batch in enumerate(_batches(trainer)):
                moved = trainer.strategy.batch_to_device(batch)
                logged.batch_size = extract_batch_size(moved)
                with trainer.precision_plugin.val_step_context():
                    module.validation_step(moved, index)
            module.on_validation_epoch_end()
        return self._percent(logged.mean())

    def _keep(self, trainer: Trainer, number: int) -> None:
        """The old checkpoint goes when the new one is known to be whole."""
        folder, name = self._run.checkpoint_dir, f"{PREFIX}{number}.ckpt"
        trainer.save_checkpoint(folder / name)
        average = None if self._average is None else self._average.state_dict()
        self._run.save({"file": name, "average": average, "random": states.random_state()})
        for old in folder.glob(f"{PREFIX}*.ckpt"):
            if old.name != name:
                old.unlink()


class _Logged:
    """Takes the place of a module's ``log``: a metric's mean over the samples."""

    def __init__(self, name: str) -> None:
        self.batch_size = 1
        self._name = name
        self._sum, self._samples = 0.0, 0
        self._metric: Any = None

    def __call__(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        if name != self._name:
            return
        if hasattr(value, "compute"):  # torchmetrics' objects gather by themselves
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
def _captured(module: LightningModule, logged: _Logged) -> Iterator[None]:
    module.log = logged  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The second pass draws no random number that the training would have drawn."""
    before = states.random_state()
    try:
        yield
    finally:
        states.set_random_state(before)


def _batches(trainer: Trainer) -> Iterator[Any]:
    loader: Any = trainer.val_dataloaders
    most = trainer.num_val_batches
    if isinstance(loader, list | tuple | dict) or len(most) > 1:
        raise TaskError(
            "KDecayCallback validates averaged weights on one validation loader, and there are "
            "several; KDecayCallback(run, averaged=False) leaves that out"
        )
    for index, batch in enumerate(loader):
        if index >= most[0]:
            return
        yield batch
