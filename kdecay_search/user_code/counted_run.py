"""How much of a run is done: the part of a :class:`~kdecay_search.user_code.run.TaskRun`
that counts."""

from __future__ import annotations

from kdecay_search.tasks.protocol import Run
from kdecay_search.user_code.given_run import GivenRun
from kdecay_search.user_code.progress import Progress


class CountedRun(GivenRun):
    """A run with the reports that it has made so far."""

    def __init__(self, run: Run) -> None:
        """Wrap the run that a worker trains; workers do this, your code does not need to."""
        super().__init__(run)
        self._progress = Progress(self.length)

    @property
    def epochs_done(self) -> int:
        """Number of epochs reported so far, including those of an attempt that was resumed.

        Raises:
            TaskError: The study counts steps.
        """
        self._require("epoch", "run.epochs_done", "run.steps_done")
        return self._progress.position

    @property
    def steps_done(self) -> int:
        """The step of the last report, including those of an attempt that was resumed.

        Raises:
            TaskError: The study counts epochs.
        """
        self._require("step", "run.steps_done", "run.epochs_done")
        return self._progress.position

    def remaining_epochs(self) -> range:
        """Return the numbers of the epochs to train, counted from 1.

        In a run that is resumed (:meth:`keep`, :meth:`resume`), they start after the last epoch
        that was reported.

        Raises:
            TaskError: The study counts steps.
        """
        self._require("epoch", "run.remaining_epochs()", "run.remaining_steps()")
        return range(self._progress.position + 1, self.length.total + 1)

    def remaining_steps(self) -> range:
        """Return the numbers of the optimizer updates to make, counted from 1.

        In a run that is resumed (:meth:`keep`, :meth:`resume`), they start after the step that was
        reported last.

        Raises:
            TaskError: The study counts epochs.
        """
        self._require("step", "run.remaining_steps()", "run.remaining_epochs()")
        return range(self._progress.position + 1, self.length.total + 1)
