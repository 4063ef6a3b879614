"""What a user's training function gets: ``def train(run: TaskRun): ...``. See docs/own-code.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdecay_search.errors import TaskError
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.base import AVERAGING_SHARE
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.protocol import Epoch, Interruption, Released, Run
from kdecay_search.user_code.random_state import seed_all
from kdecay_search.user_code.reports import as_float, check_next_epoch, epoch_of
from kdecay_search.user_code.saved_state import SavedState, Stateful, StateStore, state_of

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from kdecay_search.training.averaging import SwappedAverage
    from kdecay_search.training.lr_driver import LRDriver, ScheduleLR

logger = logging.getLogger(__name__)


class Diverged(Interruption):
    """The loss or an error is NaN or infinite: the run ends here, with an error of 100 %."""


class TaskRun:
    """One training run, from its first optimizer update to its last, as your code sees it.

    Your training function gets a ``TaskRun`` as its only argument. It must do two things:

    - use the learning rates of the run's schedule: :meth:`drive` or :meth:`scheduler` set them on
      a torch optimizer, :meth:`schedule` returns them for any other framework;
    - call :meth:`report` after every epoch.

    Everything else is optional: :attr:`seed` makes runs comparable, :meth:`average` lets hopeless
    runs end early, and :meth:`keep` lets an interrupted run resume.

    A run ends early when the rest of it would not change the search's answer, or when its worker
    stops. :meth:`report`, :meth:`save`, :meth:`poll` or the next optimizer update then raises an
    :class:`~kdecay_search.tasks.protocol.Interruption`. Do not catch it; if your code does, the
    next call raises it again. Incorrect use raises :class:`~kdecay_search.errors.TaskError`.

    Example:
        A training loop in PyTorch::

            def train(run: TaskRun) -> None:
                run.seed_everything()
                training, held_out = my_data(run.purpose)
                model = MyModel().to(run.device)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
                run.steps_per_epoch = len(training)
                run.drive(optimizer)
                average = run.average(model, optimizer)
                run.keep(model, optimizer, average)
                for epoch in run.remaining_epochs():
                    train_one_epoch(model, optimizer, training)
                    error = error_percent(model, held_out)
                    with average:
                        averaged_error = error_percent(model, held_out)
                    run.report(epoch, error, averaged_error)
    """

    def __init__(self, run: Run) -> None:
        """Wrap the run that a worker trains; workers do this, your code does not need to."""
        self._run = run
        self._steps_in_file: int | None = getattr(run.spec.task, "steps_per_epoch", None)
        self._steps_per_epoch: int | None = self._steps_in_file
        self._schedule: Schedule | None = None
        self._curve: list[Epoch] = []
        self._drivers: list[LRDriver] = []
        self._scheduler: ScheduleLR | None = None
        self._updates: Sequence[int] = ()
        self._kept: tuple[Stateful, ...] = ()
        self._will_save = False
        self._interruption: Interruption | None = None
        self._store = StateStore(run.checkpoint)

    # ---- what to train ----------------------------------------------------------------------

    @property
    def args(self) -> Mapping[str, Any]:
        """Your own settings: the table ``task.args`` of the study file."""
        task = self._run.spec.task
        return task.args if isinstance(task, PythonTask) else {}

    @property
    def seed(self) -> int:
        """The run's random seed; runs of different schedules with the same seed are compared.

        Initial weights, data order and augmentation must follow from it and from nothing else.
        """
        return self._run.seed

    @property
    def device(self) -> str:
        """The device to train on: ``cpu``, ``cuda`` or ``cuda:N``."""
        return self._run.device

    @property
    def purpose(self) -> Literal["search", "confirmation"]:
        """Which data to train and to validate on.

        ``search``: train on a part of the training set and report the error on the rest of it.
        ``confirmation``: train on the whole training set and report the error on the test set.
        """
        return "confirmation" if self._run.comparator else "search"

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run: ``task.epochs`` of the study file."""
        return self._run.spec.task.length.reports

    @property
    def epochs_done(self) -> int:
        """Number of epochs reported so far, including those of an attempt that was resumed."""
        return len(self._curve)

    def remaining_epochs(self) -> range:
        """Return the numbers of the epochs to train, counted from 1.

        In a run that is resumed (:meth:`keep`, :meth:`resume`), they start after the last epoch
        that was reported.
        """
        return range(self.epochs_done + 1, self.epochs + 1)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer updates per epoch.

        It is ``task.steps_per_epoch`` of the study file, or else what your code sets, before the
        schedule is first used. With gradients accumulated over several batches, it counts updates
        and not batches.
        """
        if self._steps_per_epoch is None:
            raise TaskError(
                "the number of updates is not known yet: set run.steps_per_epoch = len(loader) "
                "first, or task.steps_per_epoch in the study file"
            )
        return self._steps_per_epoch

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
            raise TaskError(f"run.steps_per_epoch = {steps!r}: must be a whole number, 1 or more")
        if self._steps_in_file not in (None, steps):
            raise TaskError(
                f"run.steps_per_epoch = {steps}: the study file has task.steps_per_epoch = "
                f"{self._steps_in_file}; remove it there, or do not set it here"
            )
        if self._schedule is not None and self._steps_per_epoch != steps:
            raise TaskError(
                f"run.steps_per_epoch = {steps}: was {self._steps_per_epoch} when the schedule "
                "was first used; set it once, before that"
            )
        self._steps_per_epoch = int(steps)

    @property
    def total_steps(self) -> int:
        """Number of optimizer updates of the whole run: ``epochs * steps_per_epoch``."""
        return self.epochs * self.steps_per_epoch

    # ---- the learning rate ------------------------------------------------------------------

    def schedule(self, step: int) -> float:
        """Return the learning rate of an optimizer update.

        Args:
            step: The number of the update, counted from 0. From :attr:`total_steps` on, the
                learning rate stays at its final value.

        Raises:
            TaskError: :attr:`steps_per_epoch` is not known yet.
        """
        if self._schedule is None:
            run, steps = self._run, self.steps_per_epoch
            self._schedule = schedule_of(run.spec, run.comparator, run.ks, steps, run.lr_max)
        return self._schedule(min(step, self.total_steps), self.total_steps)

    def drive(self, optimizer: Optimizer, *, base_lr: float | None = None) -> None:
        """Let the schedule set the learning rate before each update of a torch optimizer.

        Each update also polls (:meth:`poll`). The number of updates is saved by :meth:`keep` and
        :meth:`save`, and restored with them. A scheduler of your own may stay: it is overruled.

        Args:
            optimizer: The learning rate of a parameter group is the schedule's, times the group's
                own ``lr`` divided by ``base_lr``. A group with ``lr`` 0 is frozen and stays so.
                Groups may be added later.
            base_lr: The ``lr`` that stands for the schedule's. By default it is the optimizer's
                own, as in ``SGD(groups, lr=0.1)``, if a group has it, and else that of the first
                group that is not frozen. So with one group, its ``lr`` does not matter.

        Raises:
            TaskError: All groups are frozen, or ``base_lr`` is not above 0.
        """
        from kdecay_search.training.lr_driver import LRDriver  # noqa: PLC0415 - torch

        driver = LRDriver(optimizer, self.schedule, self.poll, base_lr)
        if len(self._drivers) < len(self._updates):
            driver.updates = self._updates[len(self._drivers)]
        self._drivers.append(driver)

    def scheduler(self, optimizer: Optimizer, *, base_lr: float | None = None) -> ScheduleLR:
        """Return the schedule as a torch ``LRScheduler``, for use in place of :meth:`drive`.

        Args:
            optimizer: Its parameter groups are treated as by :meth:`drive`.
            base_lr: The ``lr`` that stands for the schedule's; see :meth:`drive`.

        Returns:
            A scheduler. Call its ``step()`` after every update, which also polls (:meth:`poll`).
            Save and restore it with its ``state_dict()``, for instance by :meth:`keep`.

        Raises:
            TaskError: All groups are frozen, or ``base_lr`` is not above 0.
        """
        from kdecay_search.training.lr_driver import ScheduleLR  # noqa: PLC0415 - torch

        self._scheduler = ScheduleLR(optimizer, self.schedule, self.poll, base_lr)
        return self._scheduler

    # ---- results ----------------------------------------------------------------------------

    def report(
        self,
        epoch: int,
        validation_error: float,
        averaged_error: float | None = None,
        *,
        loss: float | None = None,
        lr: float | None = None,
        **metrics: float,
    ) -> None:
        """Record an epoch. NaN or infinity as an error or as the loss ends the run as diverged.

        Args:
            epoch: The epoch's number, counted from 1. Report every epoch once, in order.
            validation_error: Error of the weights as they are, in percent (0 to 100).
            averaged_error: Error of the averaged weights (:meth:`average`), in percent. Without
                it, the run is never ended early.
            loss: The epoch's mean training loss.
            lr: Learning rate of the epoch's last update; not needed with :meth:`drive` or
                :meth:`scheduler`.
            metrics: Further numbers, for the worker's log.

        Raises:
            TaskError: The epoch is not the next one, a value is not a number, or an error is not
                in percent.
            Interruption: The run ends here; do not catch it.
        """
        self._raise_if_interrupted()
        if lr is None and self._drivers:
            lr = self._drivers[0].rate
        elif lr is None and self._scheduler is not None:
            lr = self._scheduler.rate
        name = f"run.report(epoch={epoch!r})"
        number = check_next_epoch(name, epoch, self.epochs_done, self.epochs)
        reported = epoch_of(number, validation_error, averaged_error, loss, lr)
        others = {name: as_float(name, value) for name, value in metrics.items()}
        if others:
            shown = ", ".join(f"{name} {value:g}" for name, value in others.items())
            logger.info("epoch %d: %s", number, shown)
        self._curve.append(reported)
        try:
            self._interruptible(self._run.report, reported)
        except Released:
            self._save_kept()
            if not self._will_save or self._kept:
                raise  # otherwise save() raises it, once the epoch is saved
        else:
            self._save_kept()
        if reported.diverged:
            self._interruption = Diverged()
            raise self._interruption

    def poll(self) -> None:
        """Raise if the run is to end; cheap enough to call for every batch.

        Not needed with :meth:`drive` or :meth:`scheduler`, whose updates poll.

        Raises:
            Interruption: The run ends here; do not catch it.
        """
        self._raise_if_interrupted()
        self._interruptible(self._run.poll)

    # ---- resuming an interrupted run --------------------------------------------------------

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for this run alone; all attempts at the run share it.

        It is created when it is first asked for, and removed when the run has ended.
        """
        return self._store.folder

    def keep(self, *objects: Stateful) -> None:
        """Save the state of these objects after every epoch, and restore it in a resumed run.

        The states of the random generators of Python, NumPy and torch are saved and restored with
        them. Call it once, before the first epoch, and then train :meth:`remaining_epochs`.

        Args:
            objects: Anything with ``state_dict()`` and ``load_state_dict()``, always in the same
                order: the model, the optimizer, the result of :meth:`average`, and so on.

        Raises:
            TaskError: An epoch was reported before.
            Exception: A saved state does not fit the objects; the next attempt starts over.
        """
        found = self._restore()
        if found is not None:
            self._store.restore(objects, found)
        self._kept = objects

    def save(self, state: Any) -> None:
        """Save ``state`` together with the epochs reported so far, in place of what was saved.

        Call it after :meth:`report`; within a long epoch, it may be called at any time.

        Args:
            state: Anything that can be pickled; :meth:`resume` returns it.

        Raises:
            TaskError: :meth:`keep` was called: it already saves after every report.
            Interruption: The run ends here, its state saved; do not catch it.
        """
        if self._kept:
            raise TaskError("run.save: run.keep already saves after every report; use one of them")
        self._write(state)
        self._will_save = True
        self._raise_if_interrupted()

    def resume(self) -> Any:
        """Return what an interrupted attempt at this run saved last.

        Call it once, before the first epoch, and then train :meth:`remaining_epochs`.

        Returns:
            What was passed to :meth:`save`, with all tensors on the CPU; None if there is nothing.

        Raises:
            TaskError: An epoch was reported before.
        """
        self._will_save = True
        return self._restore()

    # ---- averaged weights and seeds ---------------------------------------------------------

    def average(self, model: nn.Module, optimizer: Optimizer | None = None) -> SwappedAverage:
        """Average a torch model's weights, and the statistics of its batch norms, over updates.

        The half-life of the average is ``task.averaging_share`` of the whole run's updates. It
        takes memory for one more copy of the weights.

        Args:
            model: The model, already on its device.
            optimizer: Updates the average after each of its updates. Without it, call
                ``update()`` of the result yourself.

        Returns:
            A context manager: ``with average: error = evaluate(model)`` evaluates the model with
            the averaged weights, in eval mode. Pass it to :meth:`keep` as well.
        """
        from kdecay_search.training.averaging import SwappedAverage  # noqa: PLC0415 - torch

        share = getattr(self._run.spec.task, "averaging_share", AVERAGING_SHARE)
        return SwappedAverage(model, share * self.total_steps, optimizer)

    def seed_everything(self) -> None:
        """Seed the global random generators of Python, NumPy and torch with :attr:`seed`.

        NumPy and torch are seeded only if they have been imported before.
        """
        seed_all(self.seed)

    # ---- inside -----------------------------------------------------------------------------

    def _interruptible(self, call: Callable[..., None], *arguments: object) -> None:
        """Call; an interruption is remembered, so that later calls raise it again."""
        try:
            call(*arguments)
        except Interruption as interruption:
            self._interruption = interruption
            raise

    def _raise_if_interrupted(self) -> None:
        if self._interruption is not None:
            raise self._interruption

    def _save_kept(self) -> None:
        if self._kept:
            self._write(state_of(self._kept))

    def _write(self, state: Any) -> None:
        updates = [driver.updates for driver in self._drivers]
        self._store.write(SavedState(self._curve, updates, state))

    def _restore(self) -> Any:
        """Take over the epochs of an interrupted attempt; return what its code saved, or None."""
        if self._curve:
            raise TaskError("call run.keep and run.resume before the first report")
        saved = self._store.read()
        if saved is None:
            return None
        self._curve, self._updates = list(saved.curve), saved.updates
        for driver, updates in zip(self._drivers, self._updates, strict=False):
            driver.updates = updates
        self._run.restore(self._curve)
        return saved.state
