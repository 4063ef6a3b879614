"""The thread that keeps a trial's heartbeat in the database fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from kdecay_search.storage.queue import Claim, beat
from kdecay_search.study.spec import WorkersSpec
from kdecay_search.tasks.protocol import Interruption, Lost, Released
from kdecay_search.worker.background_thread import BackgroundThread, retry_delays

logger = logging.getLogger(__name__)


class HeartbeatStopped(RuntimeError):
    """The heartbeat thread has died, so the training must stop: its trial will be reaped."""


class Heartbeat(BackgroundThread):
    """Context manager that renews the heartbeat of a claimed trial while it is trained.

    Args:
        storage: The database that holds the trial.
        claim: The trial, as this worker claimed it.
        settings: The study's ``[workers]`` table: the interval and the grace period.
        clock: Returns the time in seconds.
    """

    interruption: type[Interruption] | None
    """:class:`Lost` once this worker no longer holds the trial: it was reaped or deleted, or no
    heartbeat got through for the grace period, so that another worker may have claimed it.
    :class:`Released` once the user has stopped the study. None until then."""
    error: HeartbeatStopped | None
    """What ended the thread, if it died of an unexpected error."""

    def __init__(
        self,
        storage: Storage,
        claim: Claim,
        settings: WorkersSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("heartbeat")
        self.interruption = None
        self.error = None
        self._storage = storage
        self._claim = claim
        self._settings = settings
        self._clock = clock
        self._last_beat = clock()

    def _run(self) -> None:
        interval = self._settings.heartbeat_seconds
        pause, delays = interval, retry_delays()
        try:
            while self.interruption is None and not self._ended.wait(pause):
                if self._beat():
                    pause, delays = interval, retry_delays()
                else:
                    pause = min(interval, next(delays))
        except Exception as error:
            logger.exception("the heartbeat of trial %d died", self._claim.trial_id)
            self.error = HeartbeatStopped(f"the heartbeat died: {type(error).__name__}: {error}")

    def _beat(self) -> bool:
        """Send one heartbeat; return whether it got through."""
        try:
            ownership = beat(self._storage, self._claim)
        except StorageError as error:
            silent = self._clock() - self._last_beat
            logger.warning("no heartbeat for %.0f s: %s", silent, error)
            if silent > self._settings.grace_seconds:
                self.interruption = Lost
            else:
                self._storage.revive()
            return False
        self._last_beat = self._clock()
        if not ownership.running:
            self.interruption = Lost
        elif ownership.stopped:
            self.interruption = Released
        return True
