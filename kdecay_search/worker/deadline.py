"""Ending a worker in time when its training does not poll, for example while it decodes data."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from kdecay_search.worker.background_thread import BackgroundThread

logger = logging.getLogger(__name__)

GRACE_SHARE = 0.8
"""Share of the grace period that a training has to stop; the rest is left to the operating
system."""
STOP_POLL_SECONDS = 1.0
"""Time between two looks at whether the worker was asked to stop."""


class Deadline(BackgroundThread):
    """Context manager that exits the process some seconds after ``stop`` was set.

    Args:
        stop: Set when the process is asked to end.
        seconds: How long the ``with`` block may last after that.
        release: Called before the process exits, to put the trial back into the queue.
    """

    def __init__(self, stop: threading.Event, seconds: float, release: Callable[[], None]) -> None:
        super().__init__("deadline")
        self._stop = stop
        self._seconds = seconds
        self._release = release

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._ended.wait(STOP_POLL_SECONDS):
                return
        if self._ended.wait(self._seconds):
            return
        logger.warning("the training did not stop within %.0f s: abandoning it", self._seconds)
        try:
            self._release()
        finally:
            logging.shutdown()
            os._exit(0)
