"""What a worker does: claim, train, finish, tick; and wait when there is nothing to do."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from kdecay_search import reconcile
from kdecay_search.errors import InvalidSpec, KDecayError, StorageUnavailable, StudyError
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.user_code.allowance import NO_OWN_CODE, Allowance
from kdecay_search.worker.attempt import Place, attempt, task_of

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between two looks for work, of a worker that has just become idle …"""
IDLE_SHARE = 0.05
"""… and later this share of the time for which it has been idle …"""
IDLE_PAUSE_SECONDS = 15.0
"""… up to this: a thousand workers without work must not keep the database busy."""
REST_SECONDS = 30.0
"""A worker of all studies looks at one that is done only so often …"""
UNFIT_SECONDS = 600.0
"""… and at one that this machine lacks something for only so often."""
RECONCILE_SECONDS = 10.0
"""While runs are waiting, a worker ticks only so often: there is nothing to plan for yet."""


@dataclass(frozen=True)
class Options:
    """What to work on."""

    study: str | None
    """None: all studies of the storage."""
    drain: bool
    """End when no work is left, instead of waiting for more."""
    allowance: Allowance = NO_OWN_CODE
    """Whose own training code may be run."""


class Progress(Enum):
    """What a tick found."""

    OVER = auto()
    """The study wants no work."""
    QUEUED = auto()
    """It has just been given runs to train."""
    UNKNOWN = auto()
    """It may want work later, or somebody else is planning it."""


def process_name(pid: int) -> str:
    """A process of this machine, as the names of workers begin."""
    return f"{socket.gethostname()}:{pid}:"


class Worker:
    """Serves studies until told to stop, or, draining, until none of them runs."""

    def __init__(
        self,
        storage: Storage,
        options: Options,
        place: Place,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{process_name(os.getpid())}{place.device}"
        self.trials = 0
        self._storage = storage
        self._options = options
        self._place = place
        self._clock = clock
        self._resting_until: dict[str, float] = {}
        self._reconciled: dict[str, float] = {}

    def serve(self) -> None:
        """Work. Raises :class:`KDecayError` when this worker cannot do what the studies need."""
        if self._options.study is not None:
            records.read_study(self._storage, self._options.study)
        pause, busy = FIRST_PAUSE_SECONDS, self._clock()
        while not self._place.stop.is_set():
            worked, more = self._round()
            if worked:
                pause, busy = FIRST_PAUSE_SECONDS, self._clock()
                continue
            if not more and self._options.drain:
                return
            self._place.stop.wait(pause)
            pause = min(1.5 * pause, longest_pause(self._clock() - busy))

    def _round(self) -> tuple[bool, bool]:
        """Look once for work: whether some was done, and whether more may come."""
        try:
            names = self._awake()
            if any(self._work_on(name) for name in names):
                return True, True
            progress = [self._reconcile(name) for name in names]
            return Progress.QUEUED in progress, progress != [Progress.OVER] * len(names)
        except StorageUnavailable as error:
            logger.warning("%s", error)
            return False, True

    def _awake(self) -> list[str]:
        if self._options.study is not None:
            return [self._options.study]
        now = self._clock()
        names = records.study_names(self._storage)
        return [name for name in names if self._resting_until.get(name, now) <= now]

    def _work_on(self, name: str) -> bool:
        """Train one trial of the study, if one is waiting."""
        spec = self._wanted(name)
        if spec is None:
            return False

        def prepare() -> None:
            """Before a trial is taken: it shall be one that can be trained, and not be held up."""
            self._options.allowance.require(spec)
            task_of(spec)  # imports torch, which takes seconds

        try:
            claim = queue.claim(self._storage, name, self.name, prepare)
            if claim is None:
                return False
            outcome = attempt(self._storage, spec, claim, self._place)
        except StorageUnavailable:
            raise
        except KDecayError as error:
            if self._options.study is not None:
                raise
            logger.warning("%s cannot be served here: %s", name, error)
            self._resting_until[name] = self._clock() + UNFIT_SECONDS
            return False
        self._ended(claim, outcome)
        if self._clock() - self._reconciled.get(name, -math.inf) >= RECONCILE_SECONDS:
            self._reconcile(name)
        return True

    def _ended(self, claim: Claim, outcome: str) -> None:
        logger.info("%s %s: %s", claim.study, _described(claim), outcome)
        self.trials += 1

    def _wanted(self, name: str) -> StudySpec | None:
        """The study's spec, if it wants work and this version understands it.

        Read before every claim: a study may have been deleted and launched anew.
        """
        try:
            spec, stopped = records.read_study(self._storage, name)
        except (StudyError, InvalidSpec) as error:
            if self._options.study is not None:
                raise
            logger.warning("%s is left alone: %s", name, error)
            return None
        return None if stopped else spec

    def _reconcile(self, name: str) -> Progress:
        """Tick a study; return how it goes on, as far as this worker can tell."""
        self._reconciled[name] = self._clock()
        try:
            snapshot = reconcile.reconcile(self._storage, name)
        except (StudyError, InvalidSpec) as error:
            logger.info("%s", error)
            self._resting_until[name] = self._clock() + REST_SECONDS
            return Progress.OVER
        if snapshot is None:
            return Progress.UNKNOWN
        if snapshot.state in ("done", "failed"):
            self._place.checkpoints.remove_study(snapshot.spec)
        if snapshot.state != "running":
            self._resting_until[name] = self._clock() + REST_SECONDS
            return Progress.OVER
        return Progress.QUEUED if snapshot.plan.enqueue else Progress.UNKNOWN


def longest_pause(idle_seconds: float) -> float:
    """Seconds between two looks for work, after having been idle for so long."""
    return min(max(LONGEST_PAUSE_SECONDS, IDLE_SHARE * idle_seconds), IDLE_PAUSE_SECONDS)


def _described(claim: Claim) -> str:
    key, k = claim.request.key, claim.request.k
    if claim.request.comparator is not None:
        return f"confirmation, {claim.request.comparator}, seed {key.seed}"
    chosen = "k by the sampler" if k is None else f"k = {k:g}"
    chosen += f", lr_max {claim.request.lr_max:g}" if claim.request.lr_max is not None else ""
    return f"stage {key.stage}, {chosen}, seed {key.seed}"
