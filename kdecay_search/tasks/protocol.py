"""What a task is: a function that trains one run and reports every epoch.

The worker calls ``train(run)``. The task calls ``run.report(epoch)`` after every epoch, and
``run.poll()`` as often as it can afford to, such as after every batch. Both may raise an
:class:`Interruption`, which the task must not catch: the worker handles it. The run's result is the
validation error of the last reported epoch, unless the task returns another number.

A task that can resume an interrupted run writes its state to ``run.checkpoint`` at the end of an
epoch when a checkpoint is due, and on :class:`Released`. When it resumes, it passes the epochs that
it found there to ``run.restore``.

This module imports no framework. :mod:`kdecay_search.tasks.simulated`,
:mod:`kdecay_search.training` and :mod:`kdecay_search.user_code` implement tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import Checkpoint

DIVERGED_ERROR = 100.0
"""Error (%) of a run whose loss became NaN or infinite, which is a result and not a failure."""


@dataclass(frozen=True)
class Epoch:
    """What is known after one epoch of training; errors are in percent."""

    number: int
    """How many epochs are done: 1 after the first."""
    training_loss: float | None
    """Mean training loss over the epoch's batches; None if not reported."""
    validation_error: float
    """Validation error (%) of the weights as they are."""
    averaged_error: float | None = None
    """Validation error (%) of the averaged weights, which early stopping compares. A run
    without it is never pruned."""
    learning_rate: float | None = None
    """Learning rate at the epoch's last update; None if not reported."""

    @property
    def diverged(self) -> bool:
        """Whether the training loss is NaN or infinite, so that training further is pointless."""
        return self.training_loss is not None and not math.isfinite(self.training_loss)


class Interruption(Exception):
    """Ends a training early, at the worker's request."""


class Pruned(Interruption):
    """Other candidates are clearly better: the rest of this run would not change the answer."""


class Released(Interruption):
    """The worker or the study was asked to stop: the trial goes back into the queue."""


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
        """All terms of the schedule: those that earlier stages kept, then the candidate's k."""
        ...

    @property
    def lr_max(self) -> float | None:
        """The learning-rate level to use instead of ``spec.schedule.lr_max``; None if it is not
        searched."""
        ...

    @property
    def comparator(self) -> str | None:
        """The schedule to train in a confirmation (:mod:`kdecay_search.study.comparators`): on all
        training images, reporting the error on the test set. None in a search, which never reads
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
        """Record the epochs, from the first, that were trained before a checkpoint was written."""
        ...

    def report(self, epoch: Epoch) -> None:
        """Record an epoch.

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
"""Trains a run. Returns its validation error (%), or None for that of the last reported epoch."""
