"""Search the learning-rate schedule of a Lightning ``Trainer``. See docs/own-code.md.

It works with ``lightning`` and with ``pytorch_lightning``, whichever is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from kdecay_search.errors import TaskError
from kdecay_search.training.averaging import SwappedAverage
from kdecay_search.user_code.random_state import (
    get_random_state,
    random_state_preserved,
    set_random_state,
)
from kdecay_search.user_code.reports import check_direction
from kdecay_search.user_code.run import TaskRun

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.data import extract_batch_size
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
        from lightning.pytorch.utilities.data import extract_batch_size
    except ModuleNotFoundError:
        from pytorch_lightning import Callback, LightningModule, Trainer
        from pytorch_lightning.utilities.data import extract_batch_size

__all__ = ["KDecayCallback"]

PREFIX = "epoch-"
"""How the file names of checkpoints begin."""


class KDecayCallback(Callback):
    """Sets the learning rate by the run's schedule, and reports the monitored metric.

    A study of epochs gets a report after every epoch and needs ``Trainer(max_epochs=run.epochs)``.
    A study of steps gets one after every validation and needs
    ``Trainer(max_steps=run.total_steps, max_epochs=-1)``, with a ``val_check_interval`` of
    ``run.report_every`` batches (times ``accumulate_grad_batches``), and
    ``check_val_every_n_epoch=None`` if that is more than an epoch.

    The learning rate is set just before each update, so a scheduler of your own is overruled. Pass
    ``ckpt_path=callback.ckpt_path`` to ``Trainer.fit`` so that an interrupted run resumes from the
    end of the last epoch that ended with a report.

    Args:
        run: What your training function got.
        monitor: The metric that your ``validation_step`` logs.
        percent: Turns the logged value into the study's metric, such as
            ``lambda accuracy: 100 - 100 * accuracy``.
        averaged: Whether to validate the averaged weights as well, by calling your
            ``validation_step`` a second time after every epoch. Without it, no run ends early.
        base_lr: The ``lr`` that stands for the schedule's, where parameter groups differ in ``lr``;
            see :meth:`TaskRun.drive`.
        mode: Whether lower (``min``) or higher (``max``) values of the study's metric are better;
            an error is raised if the study says otherwise. The ``mode`` of a ``ModelCheckpoint`` or
            ``EarlyStopping`` with the same ``monitor`` is checked as well, without ``percent``.
    """

    def __init__(
        self,
        run: TaskRun,
        monitor: str = "val_error",
        percent: Callable[[float], float] = float,
        averaged: bool = True,
        base_lr: float | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        if mode is not None:
            check_direction(run, mode, f"KDecayCallback(mode={mode!r})")
        self._run, self._monitor, self._percent = run, monitor, percent
        self._base_lr = base_lr
        self._averages = averaged
        self._average: SwappedAverage | None = None
        self._saves_checkpoints = False
        self._reported_step = -1
        self._restored: dict[str, Any] | None = None

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint to resume from; None if there is none.

        Once it has been asked for, a checkpoint is saved after every epoch that ends with a report.
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
        self._check_directions(trainer)
        if run.length.counts_steps:
            _check_steps(run, trainer)
        else:
            _check_epochs(run, trainer)
            run.steps_per_epoch = int(trainer.estimated_stepping_batches) // run.epochs
        for optimizer in trainer.optimizers:
            run.drive(optimizer, base_lr=self._base_lr)
        if self._averages:
            self._average = run.average(pl_module, trainer.optimizers[0])
        if self._restored is not None and self._average is not None:
            self._average.load_state_dict(self._restored["average"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random generators again, if Lightning draws the order of the data again.

        It does so if it counts steps: it resumes at the end of the epoch that is done.
        """
        if self._restored is not None and self._run.length.counts_steps:
            set_random_state(self._restored["random"])
            self._restored = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the step, if the study counts steps."""
        if self._run.length.counts_steps and trainer.global_step and not trainer.sanity_checking:
            with torch.inference_mode(False), torch.no_grad():
                self._report(trainer, pl_module, {"step": trainer.global_step})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch, if the study counts epochs, and save a checkpoint."""
        number = trainer.current_epoch + 1
        if not self._run.length.counts_steps:
            self._report(trainer, pl_module, {"epoch": number})
        if self._saves_checkpoints and self._reported_step == trainer.global_step:
            self._save_checkpoint(trainer, number)  # otherwise Lightning would repeat a batch

    def _report(self, trainer: Trainer, module: LightningModule, place: dict[str, int]) -> None:
        """Report the monitored metric after an epoch or a step."""
        metrics = trainer.callback_metrics
        if self._monitor not in metrics:
            ((unit, number),) = place.items()
            raise TaskError(
                f"no metric {self._monitor!r} after {unit} {number}: log it in validation_step, "
                f"in every {unit}; logged: {', '.join(metrics) or 'nothing'}"
            )
        self._reported_step = trainer.global_step
        value = self._percent(float(metrics[self._monitor]))
        loss = metrics.get("train_loss")
        with random_state_preserved():
            averaged = self._averaged_value(trainer, module)
        self._run.report(
            **place,
            value=value,
            averaged_value=averaged,
            loss=None if loss is None else float(loss),
        )

    def _averaged_value(self, trainer: Trainer, module: LightningModule) -> float | None:
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

    def _check_directions(self, trainer: Trainer) -> None:
        """Check that other callbacks that watch the metric agree with the study's direction."""
        if self._percent is not float:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            mode = getattr(callback, "mode", None)
            if getattr(callback, "monitor", None) == self._monitor and mode in ("min", "max"):
                source = f"{type(callback).__name__}(monitor={self._monitor!r}, mode={mode!r})"
                check_direction(self._run, mode, source)

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


def _check_epochs(run: TaskRun, trainer: Trainer) -> None:
    if trainer.max_steps not in (None, -1):
        raise TaskError(
            f"Trainer(max_steps={trainer.max_steps}): this study has {run.length.setting}; leave "
            "max_steps out, or set task.steps and task.report_every in the study file"
        )
    if trainer.max_epochs != run.epochs:
        raise TaskError(
            f"Trainer(max_epochs={trainer.max_epochs}): {run.length.setting} in the study file; "
            "write max_epochs=run.epochs"
        )


def _check_steps(run: TaskRun, trainer: Trainer) -> None:
    updates = trainer.estimated_stepping_batches
    if updates != run.total_steps:
        raise TaskError(
            f"Trainer(max_steps={trainer.max_steps}, max_epochs={trainer.max_epochs}) makes "
            f"{updates} updates, but this study has {run.length.setting}; write "
            "max_steps=run.total_steps, max_epochs=-1"
        )
    if run.total_steps % run.report_every:
        raise TaskError(
            f"{run.length.setting} must be a multiple of task.report_every = {run.report_every}: "
            "Lightning does not validate at the end of a training"
        )


@contextmanager
def _logging_to(module: LightningModule, metric: _LoggedMetric) -> Iterator[None]:
    module.log = metric  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log


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
