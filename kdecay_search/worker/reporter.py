"""The thread that writes a trial's reports to the database while training continues."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from kdecay_search.errors import StorageUnavailable
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost
from kdecay_search.worker.background_thread import BackgroundThread, retry_delays

logger = logging.getLogger(__name__)


ReportEpoch = Callable[[Epoch], type[Interruption] | None]
"""Writes one report. Returns the interruption that ends the training, if there is one. May raise
:class:`StorageUnavailable`; the call is then repeated."""


class Reporter(BackgroundThread):
    """Context manager that writes reports in order, from a thread.

    They wait here while the database is unavailable. The thread stops at once at the end of the
    ``with`` block and drops what waits: the trial's next holder makes those reports again.
    """

    join_seconds = 1.0  # longer than a statement takes while the database is available
    interruption: type[Interruption] | None
    """The last interruption that a report returned; None until then."""
    error: Exception | None
    """What ended the thread, if a report raised an error that cannot be retried."""

    def __init__(self, report: ReportEpoch) -> None:
        super().__init__("reporter")
        self.interruption = None
        self.error = None
        self._report = report
        self._epochs: deque[Epoch] = deque()
        self._changed = threading.Condition()

    def put(self, epoch: Epoch) -> None:
        """Queue a report to be written."""
        with self._changed:
            self._epochs.append(epoch)
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until no further report is to come; return False if that took too long."""

        def is_idle() -> bool:
            return not self._epochs or self.interruption is Lost or self.error is not None

        with self._changed:
            return self._changed.wait_for(is_idle, seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (epoch := self._next()) is not None:
                self.interruption = self._deliver(epoch) or self.interruption
                with self._changed:
                    self._epochs.popleft()
                    self._changed.notify_all()
        except Exception as error:
            self.error = error
            self._wake()

    def _next(self) -> Epoch | None:
        """Wait for the next report; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._epochs or self._ended.is_set())
            over = self._ended.is_set() or self.interruption is Lost
            return None if over else self._epochs[0]

    def _deliver(self, epoch: Epoch) -> type[Interruption] | None:
        """Write a report, and retry until it gets through or the ``with`` block ends."""
        for failures, delay in enumerate(retry_delays()):
            try:
                return self._report(epoch)
            except StorageUnavailable as error:
                if not failures:
                    logger.warning("report %d waits to be written: %s", epoch.number, error)
            if self._ended.wait(delay):
                break
        return None
