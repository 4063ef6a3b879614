"""Telling the database, from a thread, which epochs a trial has done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from kdecay_search.errors import StorageUnavailable
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost
from kdecay_search.worker.background_thread import BackgroundThread, pauses

logger = logging.getLogger(__name__)


Tell = Callable[[Epoch], type[Interruption] | None]
"""Delivers one epoch; returns what that means for the training, if it ends it. May raise
:class:`StorageUnavailable`, and is called again then."""


class Reporter(BackgroundThread):
    """Delivers epochs in their order while training goes on; a context manager.

    While the database is away they wait here. ``interruption`` is what a delivery found, ``error``
    what it raised. At the end of the block it stops at once: what was not delivered by then is not
    this worker's to deliver.
    """

    patience_seconds = 1.0  # longer than a statement takes, unless the database is away

    def __init__(self, tell: Tell) -> None:
        super().__init__("reporter")
        self.interruption: type[Interruption] | None = None
        self.error: Exception | None = None
        self._tell = tell
        self._epochs: deque[Epoch] = deque()
        self._changed = threading.Condition()

    def put(self, epoch: Epoch) -> None:
        with self._changed:
            self._epochs.append(epoch)
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is delivered, or nothing more will be; return whether it is so."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        return not self._epochs or self.interruption is Lost or self.error is not None

    def _run(self) -> None:
        try:
            while (epoch := self._next()) is not None:
                self.interruption = self._deliver(epoch) or self.interruption
                self._delivered()
        except Exception as error:
            self.error = error
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> Epoch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._epochs or self._ended.is_set())
            over = self._ended.is_set() or self.interruption is Lost
            return None if over else self._epochs[0]

    def _delivered(self) -> None:
        with self._changed:
            self._epochs.popleft()
            self._changed.notify_all()

    def _deliver(self, epoch: Epoch) -> type[Interruption] | None:
        """Try until it is done, or nobody waits for it any more."""
        for failures, pause in enumerate(pauses()):
            try:
                return self._tell(epoch)
            except StorageUnavailable as error:
                if not failures:
                    logger.warning("epoch %d waits to be reported: %s", epoch.number, error)
            if self._ended.wait(pause):
                break
        return None
