"""What a user's training function gets: ``def train(run: TaskRun): ...``. See docs/own-code.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdecay_search.errors import TaskError
from kdecay_search.study.base import AVERAGING_SHARE
from kdecay_search.tasks.protocol import Epoch, Interruption, Released, Run
from kdecay_search.user_code.counted_run import CountedRun
from kdecay_search.user_code.progress import Progress
from kdecay_search.user_code.random_state import seed_all
from kdecay_search.user_code.rank_state import state_store
from kdecay_search.user_code.reports import AVERAGED, VALUE, WrongReport, as_float, report_of
from kdecay_search.user_code.saved_state import SavedState, Stateful, state_of

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from kdecay_search.training.averaging import SwappedAverage
    from kdecay_search.training.lr_driver import LRDriver, ScheduleLR

logger = logging.getLogger(__name__)


class Diverged(Interruption):
    """The loss or the metric is NaN or infinite: the run ends here, and ranks last."""


class TaskRun(CountedRun):
    """One training run, from its first optimizer update to its last, as your code sees it.

    Your training function gets a ``TaskRun`` as its only argument. It must do two things:

    - use the learning rates of the run's schedule: :meth:`drive` or :meth:`scheduler` set them on
      a torch optimizer, :meth:`schedule` returns them for any other framework;
    - call :meth:`report` after every epoch or, in a study that counts steps, every
      ``task.report_every`` steps and at the end.

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

        In a study that counts steps, the loop is::

                for step in run.remaining_steps():
                    train_on_one_batch(model, optimizer, training)
                    if run.is_report_due(step):
                        run.report(step=step, value=loss_in_nats(model, held_out))
    """

    def __init__(self, run: Run) -> None:
        """Wrap the run that a worker trains; workers do this, your code does not need to."""
        super().__init__(run)
        self._drivers: list[LRDriver] = []
        self._scheduler: ScheduleLR | None = None
        self._updates: Sequence[int] = ()
        self._kept: tuple[Stateful, ...] = ()
        self._will_save = False
        self._interruption: Interruption | None = None
        self._diverged: Diverged | None = None
        """Set once rank 0 of several has reported that it diverged: all end at the next update."""
        self._store = state_store(run)

    # ---- the learning rate ------------------------------------------------------------------

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
        epoch: int | None = None,
        value: float | None = None,
        averaged_value: float | None = None,
        *,
        step: int | None = None,
        loss: float | None = None,
        lr: float | None = None,
        validation_error: float | None = None,
        averaged_error: float | None = None,
        **metrics: float,
    ) -> None:
        """Report the metric. NaN or infinity as a value or as the loss ends the run as diverged.

        Args:
            epoch: The number of epochs that are done, if the study counts epochs. Report every
                epoch once, in order.
            value: The study's metric (:attr:`metric`), with the weights as they are.
            averaged_value: The metric with averaged weights (:meth:`average`). Without it, the run
                is never ended early.
            step: The number of optimizer updates that are done, if the study counts steps. Report
                every ``task.report_every`` steps and at the end, or more often: the last value at
                or before a planned step counts for it.
            loss: The mean training loss since the report before.
            lr: Learning rate of the last update; not needed with :meth:`drive` or
                :meth:`scheduler`.
            validation_error: Another name of ``value``.
            averaged_error: Another name of ``averaged_value``.
            metrics: Further numbers, for the worker's log.

        Raises:
            TaskError: A value is not a number, or the epoch or step does not fit the study.
            Interruption: The run ends here; do not catch it.
        """
        self._raise_if_interrupted()
        if lr is None and self._drivers:
            lr = self._drivers[0].rate
        elif lr is None and self._scheduler is not None:
            lr = self._scheduler.rate
        position = self._position(epoch, step)
        if self.rank:  # rank 0 alone reports: these values count for nothing
            value, averaged_value, loss, lr, metrics = 0.0, None, None, None, {}
            validation_error = averaged_error = None
        names = VALUE, AVERAGED
        if validation_error is not None and value is None:
            value, names = validation_error, ("validation_error", names[1])
        if averaged_error is not None and averaged_value is None:
            averaged_value, names = averaged_error, (names[0], "averaged_error")
        reported = report_of(self.metric, value, averaged_value, loss, lr, names)
        others = {name: as_float(name, value) for name, value in metrics.items()}
        if others:
            shown = ", ".join(f"{name} {value:g}" for name, value in others.items())
            logger.info("%s %s: %s", self.length.unit, position, shown)
        self._pass_on(
            self._progress.take(f"run.report({self.length.unit}={position!r})", position, reported)
        )

    def _position(self, epoch: object, step: object) -> object:
        """The number of epochs or steps done, whichever the study counts."""
        wanted, other = (step, epoch) if self.length.counts_steps else (epoch, step)
        if wanted is None:
            unit = self.length.unit
            raise WrongReport(
                f"run.report: this study has {self.length.setting}; call "
                f"run.report({unit}=…, value=…)"
                + ("" if other is None else f", with the {unit}s that are done")
            )
        return wanted

    def _pass_on(self, reports: Sequence[Epoch]) -> None:
        """Hand planned reports to the worker, and save what is kept."""
        try:
            for report in reports:
                self._interruptible(self._run.report, report)
            if not reports and self.world_size == 1:
                self._interruptible(self._run.poll)
        except Released:
            self._save_kept()
            if not self._will_save or self._kept:
                raise  # otherwise save() raises it, once the report is saved
        else:
            if reports:
                self._save_kept()
        if any(report.diverged for report in reports):
            if self.world_size > 1:  # all ranks end at one update: rank 0 does not before it
                self._diverged = Diverged()
                return
            self._interruption = Diverged()
            raise self._interruption

    def _only_report(self, report: Epoch) -> None:
        """Report the result of a function that has reported nothing else."""
        self._pass_on([replace(report, number=1)])

    def _end(self, is_required: bool) -> None:
        """Pass on the report that counts for the end of the training, if it was early."""
        reports = self._progress.finish(is_required)
        if reports:
            self._pass_on(reports)

    def poll(self) -> None:
        """Raise if the run is to end; cheap enough to call for every batch.

        Not needed with :meth:`drive` or :meth:`scheduler`, whose updates poll.

        Raises:
            Interruption: The run ends here; do not catch it.
        """
        if self._interruption is not None:
            raise self._interruption
        self._interruptible(self._run.poll)

    # ---- resuming an interrupted run --------------------------------------------------------

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for this run alone; all attempts at the run share it.

        It is created when it is first asked for, and removed when the run has ended.
        """
        return self._store.folder

    def keep(self, *objects: Stateful) -> None:
        """Save the state of these objects at every planned report; restore it in a resumed run.

        The states of the random generators of Python, NumPy and torch are saved and restored with
        them. Call it once, before the first report, and then train :meth:`remaining_epochs` or
        :meth:`remaining_steps`.

        Args:
            objects: Anything with ``state_dict()`` and ``load_state_dict()``, always in the same
                order: the model, the optimizer, the result of :meth:`average`, and so on.

        Raises:
            TaskError: A report was made before.
            Exception: A saved state does not fit the objects; the next attempt starts over.
        """
        found = self._restore()
        if found is not None:
            self._store.restore(objects, found)
        self._kept = objects

    def save(self, state: Any) -> None:
        """Save ``state`` together with the reports made so far, in place of what was saved.

        Call it after :meth:`report`; between two reports, it may be called at any time.

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
        if self._interruption is not None:
            raise self._interruption

    def resume(self) -> Any:
        """Return what an interrupted attempt at this run saved last.

        Call it once, before the first report, and then train :meth:`remaining_epochs` or
        :meth:`remaining_steps`.

        Returns:
            What was passed to :meth:`save`, with all tensors on the CPU; None if there is nothing.

        Raises:
            TaskError: A report was made before.
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
            A context manager: ``with average: value = evaluate(model)`` evaluates the model with
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
        interruption = self._interruption or self._diverged
        if interruption is not None:
            raise interruption

    def _save_kept(self) -> None:
        if self._kept:
            self._write(state_of(self._kept))

    def _write(self, state: Any) -> None:
        if getattr(self._run, "is_lost", False):  # another worker may save the run's state now
            return
        updates = [driver.updates for driver in self._drivers]
        saved = SavedState(self._progress.curve, updates, state, self._progress.to_plain())
        self._store.write(saved)

    def _restore(self) -> Any:
        """Take over the reports of an interrupted attempt; return what its code saved, or None."""
        if self._progress.position:
            raise TaskError("call run.keep and run.resume before the first report")
        saved = self._store.read()
        if saved is None:
            return None
        self._progress = Progress.restored(self.length, saved.curve, saved.progress)
        self._updates = saved.updates
        for driver, updates in zip(self._drivers, self._updates, strict=False):
            driver.updates = updates
        self._run.restore(self._progress.curve)
        return saved.state
