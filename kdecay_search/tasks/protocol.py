"""What a task is: a function that trains one run and reports on it.

The worker calls ``train(run)``. The task calls ``run.report(epoch)`` for each of the reports of
``run.spec.task.length``, and ``run.poll()`` as often as it can afford to, such as after every
batch. Both may raise an :class:`Interruption`, which the task must not catch: the worker handles
it. The run's result is the value of the last report, unless the task returns another number.

Tasks report values of the study's metric as they are, whichever direction is better.

A task that can resume an interrupted run writes its state to ``run.checkpoint`` after a report when
a checkpoint is due, and on :class:`Released`, which includes :class:`Paused`. When it resumes, it
passes the reports that it found there to ``run.restore``.

This module imports no framework. :mod:`kdecay_search.tasks.simulated`,
:mod:`kdecay_search.training` and :mod:`kdecay_search.user_code` implement tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdecay_search.study.candidate import Candidate
from kdecay_search.study.metric import Metric
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import Checkpoint

LARGEST_VALUE = 1e100
"""Largest value, in size, that calculations with its square survive; a run with a larger one has
diverged."""


@dataclass(frozen=True)
class Epoch:
    """One report of a run: what is known after one of its epochs, or of its intervals of steps."""

    number: int
    """The report's number, from 1."""
    training_loss: float | None
    """Mean training loss since the report before; None if not reported."""
    validation_error: float
    """The metric's value with the weights as they are."""
    averaged_error: float | None = None
    """The metric's value with the averaged weights, which early stopping compares. A run without it
    is never paused."""
    learning_rate: float | None = None
    """Learning rate of the last update before the report; None if not reported."""

    @property
    def diverged(self) -> bool:
        """Whether the loss or the metric is not a finite number: training further is pointless."""
        known = (self.training_loss, self.validation_error, self.averaged_error)
        return not all(is_finite(value) for value in known if value is not None)

    def as_diverged(self, metric: Metric) -> Epoch:
        """This report with the worst value there is: infinite, by the metric's direction."""
        worst = worst_value(metric)
        averaged = None if self.averaged_error is None else worst
        return Epoch(self.number, math.nan, worst, averaged, self.learning_rate)


def is_finite(value: float) -> bool:
    """Whether a value can be calculated with: no NaN, not infinite, and not beyond any scale."""
    return abs(value) <= LARGEST_VALUE


def worst_value(metric: Metric) -> float:
    """The result of a run that has diverged: infinite, on the bad side of the metric's scale."""
    return metric.value(math.inf)


class Interruption(Exception):
    """Ends a training early, at the worker's request."""


class Released(Interruption):
    """The trial goes back into the queue, to be resumed: the worker or the study was asked to
    stop."""


class Paused(Released):
    """The trial is put aside, since other runs are worth more now, and is resumed if the answer
    comes to depend on it."""


class Lost(Interruption):
    """The worker no longer holds the trial: it was reaped or deleted."""


class Run(Protocol):
    """One training from step 0 to the end, as the worker hands it to a task."""

    @property
    def spec(self) -> StudySpec:
        """The study that the run belongs to."""
        ...

    @property
    def ks(self) -> tuple[float, ...]:
        """All terms of the schedule: those that earlier stages kept, then the candidate's k. Empty
        for a cooldown, which has none; in a confirmation, those that the search found."""
        ...

    @property
    def lr_max(self) -> float | None:
        """The learning-rate level to use instead of ``spec.schedule.lr_max``; None if it is not
        searched."""
        ...

    @property
    def point(self) -> Candidate | None:
        """The whole candidate, in a study that searches whole schedules; else None.

        The learning rates are those of :func:`kdecay_search.study.comparators.schedule_of`, which
        takes this, ``comparator``, ``ks`` and ``lr_max``. What ``spec.schedule`` says may be
        overruled by any of them.
        """
        ...

    @property
    def comparator(self) -> str | None:
        """The schedule to train in a confirmation (:mod:`kdecay_search.study.comparators`): on all
        training data, reporting the metric on the test set. None in a search, which never reads
        the test set.
        """
        ...

    @property
    def seed(self) -> int:
        """The only source of chance: initialisation, data order and augmentation follow from it."""
        ...

    @property
    def device(self) -> str:
        """Name of the device to train on: ``cpu``, ``cuda`` or, for example, ``cuda:1``."""
        ...

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Keeps the run's state beyond the life of this process; None to keep nothing."""
        ...

    def restore(self, epochs: Sequence[Epoch]) -> None:
        """Record the reports, from the first, that were made before a checkpoint was written."""
        ...

    def report(self, epoch: Epoch) -> None:
        """Record a report.

        Raises:
            Interruption: The training must end.
        """
        ...

    def poll(self) -> None:
        """Check whether the training must end; cheap enough for every batch.

        Raises:
            Interruption: The training must end.
        """
        ...


TrainFunction = Callable[[Run], float | None]
"""Trains a run. Returns its final value of the metric, or None for that of the last report."""
