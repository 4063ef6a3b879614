"""Leaving in time when a training does not look up: it decodes a data set, say."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from kdecay_search.worker.background_thread import BackgroundThread

logger = logging.getLogger(__name__)

SHARE = 0.8
"""Of the grace period; the rest is for the operating system."""
LOOK_SECONDS = 1.0


class Deadline(BackgroundThread):
    """Ends the process when ``seconds`` have passed since ``stop`` was set; a context manager.

    ``leave`` is called before, to put the trial back.
    """

    def __init__(self, stop: threading.Event, seconds: float, leave: Callable[[], None]) -> None:
        super().__init__("deadline")
        self._stop = stop
        self._seconds = seconds
        self._leave = leave

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._ended.wait(LOOK_SECONDS):
                return
        if self._ended.wait(self._seconds):
            return
        logger.warning("the training did not stop within %.0f s: leaving it", self._seconds)
        try:
            self._leave()
        finally:
            logging.shutdown()
            os._exit(0)
