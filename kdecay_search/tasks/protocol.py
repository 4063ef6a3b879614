"""What a task is: a callable that trains one run and reports every epoch.

The worker calls ``train(run)``; the task calls ``run.report(epoch)`` after every epoch and
``run.poll()`` as often as it is cheap (every batch). Both may raise an :class:`Interruption`,
which a task lets pass: the worker knows what to do with it. The last reported epoch's validation
error is the run's result, unless the task returns another number. A task that can be taken up
where it was interrupted keeps its state in ``run.checkpoint``, at every epoch's end, whenever that
is due, and on :class:`Released`; it tells ``run.restore`` which epochs it found there.

This module knows no framework; :mod:`kdecay_search.tasks.simulated`, :mod:`kdecay_search.training` and
:mod:`kdecay_search.user_code` implement it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import Checkpoint

DIVERGED_ERROR = 100.0
"""Error (%) of a run whose loss became NaN or infinite: a result, not a failure."""


@dataclass(frozen=True)
class Epoch:
    """The state after one epoch of training. Errors in percent."""

    number: int
    """Epochs done: 1 after the first."""
    training_loss: float | None
    """Mean over the epoch's batches; None where nobody told."""
    validation_error: float
    """Of the weights as they are."""
    averaged_error: float | None = None
    """Of the averaged weights: what pruning looks at. A run that has none is never pruned."""
    learning_rate: float | None = None
    """At the epoch's last update."""

    @property
    def diverged(self) -> bool:
        """Whether the loss is no longer a number; training on is pointless."""
        return self.training_loss is not None and not math.isfinite(self.training_loss)


class Interruption(Exception):
    """Ends a training early, on the worker's wish."""


class Pruned(Interruption):
    """Others are clearly better: the rest of this run would not change the answer."""


class Released(Interruption):
    """This worker was asked to stop: the trial goes back into the queue."""


class Lost(Interruption):
    """The trial is no longer this worker's: it was reaped, stopped or deleted."""


class Run(Protocol):
    """One training from step 0 to the end, as the worker hands it to a task."""

    @property
    def spec(self) -> StudySpec: ...

    @property
    def ks(self) -> tuple[float, ...]:
        """All terms of the schedule: those kept by earlier stages, then the candidate."""
        ...

    @property
    def lr_max(self) -> float | None:
        """The level of the LR, where it is searched, in place of ``spec.schedule.lr_max``."""
        ...

    @property
    def comparator(self) -> str | None:
        """In a confirmation, which schedule to train (:mod:`kdecay_search.study.comparators`), on all
        training images, with the error on the test set. None in a search: the test set is closed.
        """
        ...

    @property
    def seed(self) -> int:
        """Initialisation, data order and augmentation follow from it (and from nothing else)."""
        ...

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``cuda:1``."""
        ...

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where the run's state outlives this process; None to keep nothing."""
        ...

    def restore(self, epochs: Sequence[Epoch]) -> None:
        """Take over the epochs, from the first, that an earlier attempt at this run trained."""
        ...

    def report(self, epoch: Epoch) -> None:
        """Record an epoch. Raises :class:`Interruption`."""
        ...

    def poll(self) -> None:
        """Raise an :class:`Interruption` if there is one; cheap enough for every batch."""
        ...


TrainFunction = Callable[[Run], float | None]
"""A task; it returns the run's validation error (%), or None for the last that it reported."""
