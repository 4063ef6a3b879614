"""Telling the database, from a thread, that a trial's worker lives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from kdecay_search.storage.queue import Claim, beat
from kdecay_search.study.spec import WorkersSpec
from kdecay_search.tasks.protocol import Interruption, Lost, Released
from kdecay_search.worker.background_thread import BackgroundThread, pauses

logger = logging.getLogger(__name__)


class HeartbeatStopped(RuntimeError):
    """The thread that beats has died: this process must not go on, for nobody would know of it."""


class Heartbeat(BackgroundThread):
    """Beats for one claimed trial while it is trained; a context manager.

    ``interruption`` becomes :class:`Lost` when the trial is no longer this worker's: it was reaped
    or deleted, or no beat got through for the grace period, so that it may be somebody else's by
    now. It becomes :class:`Released` when the user stopped the study. ``error`` is what killed the
    thread, if something did.
    """

    def __init__(
        self,
        storage: Storage,
        claim: Claim,
        settings: WorkersSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("heartbeat")
        self.interruption: type[Interruption] | None = None
        self.error: HeartbeatStopped | None = None
        self._storage = storage
        self._claim = claim
        self._settings = settings
        self._clock = clock
        self._last_beat = clock()

    def _run(self) -> None:
        interval = self._settings.heartbeat_seconds
        pause, retries = interval, pauses()
        try:
            while self.interruption is None and not self._ended.wait(pause):
                if self._beat():
                    pause, retries = interval, pauses()
                else:
                    pause = min(interval, next(retries))
        except Exception as error:
            logger.exception("the heartbeat of trial %d died", self._claim.trial_id)
            self.error = HeartbeatStopped(f"the heartbeat died: {type(error).__name__}: {error}")

    def _beat(self) -> bool:
        """Beat once; return whether that got through."""
        try:
            ownership = beat(self._storage, self._claim)
        except StorageError as error:
            self._miss(error)
            return False
        self._last_beat = self._clock()
        if not ownership.running:
            self.interruption = Lost
        elif ownership.stopped:
            self.interruption = Released
        return True

    def _miss(self, error: StorageError) -> None:
        silent = self._clock() - self._last_beat
        logger.warning("no heartbeat for %.0f s: %s", silent, error)
        if silent > self._settings.grace_seconds:
            self.interruption = Lost
        else:
            self._storage.revive()
