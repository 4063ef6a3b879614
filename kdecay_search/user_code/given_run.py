"""What a run trains: the part of a :class:`~kdecay_search.user_code.run.TaskRun` that is given."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal

from kdecay_search.errors import TaskError
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.metric import Metric
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.protocol import Run


class GivenRun:
    """The settings of one training run: its data, its length and its learning rates."""

    def __init__(self, run: Run) -> None:
        """Wrap the run that a worker trains; workers do this, your code does not need to."""
        self._run = run
        self._steps_in_file: int | None = getattr(run.spec.task, "steps_per_epoch", None)
        self._steps_per_epoch: int | None = self._steps_in_file
        self._schedule: Schedule | None = None

    @property
    def args(self) -> Mapping[str, Any]:
        """Your own settings: the table ``task.args`` of the study file, and the run's values of the
        parameters of your own that ``search.space`` states."""
        task, point = self._run.spec.task, self._run.point
        stated = task.args if isinstance(task, PythonTask) else {}
        return {**stated, **dict(point.args)} if point else stated

    @property
    def seed(self) -> int:
        """The run's random seed; runs of different schedules with the same seed are compared.

        Initial weights, data order and augmentation must follow from it and from nothing else.
        """
        return self._run.seed

    @property
    def device(self) -> str:
        """The device to train on: ``cpu``, ``cuda`` or ``cuda:N``; each rank's own."""
        return self._run.device

    @property
    def rank(self) -> int:
        """The number of this process among those that train the run together, from 0.

        All of them call the same methods of the run, in the same order. Rank 0 alone reports and
        saves; the calls of the others keep their counts, and let all ranks end together.
        """
        return int(getattr(self._run, "rank", 0))

    @property
    def world_size(self) -> int:
        """How many processes train the run: ``--devices-per-run`` of the worker."""
        return int(getattr(self._run, "world_size", 1))

    @property
    def purpose(self) -> Literal["search", "confirmation"]:
        """Which data to train and to validate on.

        ``search``: train on a part of the training set and report the metric on the rest of it.
        ``confirmation``: train on the whole training set and report the metric on the test set.
        """
        return "confirmation" if self._run.comparator else "search"

    @property
    def metric(self) -> Metric:
        """The metric that your code reports: ``task.metric`` of the study file.

        Its ``direction`` is ``min`` or ``max``, whichever is better.
        """
        return self._run.spec.task.metric

    # ---- how long to train ------------------------------------------------------------------

    @property
    def length(self) -> TrainingLength:
        """The length of the whole run, in epochs or in steps, and when to report."""
        return self._run.spec.task.length

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run: ``task.epochs`` of the study file.

        Raises:
            TaskError: The study counts steps.
        """
        self._require("epoch", "run.epochs", "run.total_steps")
        return self.length.total

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer updates per epoch; not needed in a study that counts steps.

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
        is_used = self._schedule is not None and not self.length.counts_steps
        if is_used and self._steps_per_epoch != steps:
            raise TaskError(
                f"run.steps_per_epoch = {steps}: was {self._steps_per_epoch} when the schedule "
                "was first used; set it once, before that"
            )
        self._steps_per_epoch = int(steps)

    @property
    def total_steps(self) -> int:
        """Number of optimizer updates of the whole run.

        It is ``task.steps`` of the study file, or ``epochs * steps_per_epoch``.
        """
        if self.length.counts_steps:
            return self.length.total
        return self.length.total * self.steps_per_epoch

    @property
    def report_every(self) -> int:
        """Optimizer updates from one report to the next.

        It is ``task.report_every`` of the study file, or ``steps_per_epoch``.
        """
        return self.length.report_every if self.length.counts_steps else self.steps_per_epoch

    def is_report_due(self, step: int) -> bool:
        """Return whether the study plans a report after this many optimizer updates.

        Args:
            step: Number of updates that are done: 1 after the first.
        """
        return step > 0 and (step % self.report_every == 0 or step == self.total_steps)

    # ---- the learning rate ------------------------------------------------------------------

    def schedule(self, step: int) -> float:
        """Return the learning rate of an optimizer update.

        Args:
            step: The number of the update, counted from 0. From :attr:`total_steps` on, the
                learning rate stays at its final value.

        Raises:
            TaskError: The study counts epochs, and :attr:`steps_per_epoch` is not known yet.
        """
        if self._schedule is None:
            run = self._run
            per_epoch = 1 if self.length.counts_steps else self.steps_per_epoch
            self._schedule = schedule_of(
                run.spec, run.comparator, run.ks, per_epoch, run.lr_max, run.point
            )
        return self._schedule(min(step, self.total_steps), self.total_steps)

    def _require(self, unit: str, used: str, instead: str) -> None:
        """Check that the study counts epochs, or steps."""
        if self.length.unit != unit:
            raise TaskError(f"{used}: this study has {self.length.setting}; use {instead}")
