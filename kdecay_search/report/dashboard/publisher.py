"""Publishing all studies of a storage for as long as a dashboard shows them."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from optuna.artifacts import FileSystemArtifactStore

from kdecay_search.report.dashboard.artifacts import keep_winner
from kdecay_search.report.dashboard.publication import Outcome, content_of, publish
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, records

logger = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
"""How often the storage is looked at."""
PERIOD_SECONDS = 30.0
"""Least time between two publications of a study, unless a stage or the study has ended, and
between two looks at a study that is over."""


@dataclass(frozen=True)
class _Known:
    """A study as it was when it was last published."""

    content: str
    """Digest of what was published; empty if that failed."""
    milestone: str
    """Digest that changes when a stage or the study begins, ends or is stopped; empty if
    publishing failed."""
    is_over: bool
    """Whether the study was done or had failed."""
    since: float
    """When it was published or, of a study that is over, looked at last; by the publisher's clock,
    in seconds."""
    first_stage: int | None = None
    """Optuna's id of the study's first stage, if the storage says that the study has ended."""


class Publisher:
    """Publishes every study that changes: at once when a stage or the study ends or is stopped,
    else at most every :data:`PERIOD_SECONDS`.

    Nothing that goes wrong with a study is raised. It is logged, once until something else goes
    wrong, and publishing is tried again after :data:`PERIOD_SECONDS`.
    """

    def __init__(
        self,
        storage: Storage,
        artifacts: FileSystemArtifactStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Publish from and to ``storage``; ``artifacts`` is where finished schedules are kept."""
        self._storage = storage
        self._artifacts = artifacts
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._warnings: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set."""
        while not stop.is_set():
            self.look(stop)
            stop.wait(LOOK_SECONDS)

    def look(self, stop: threading.Event, most_seconds: float = float("inf")) -> None:
        """Look at every study once, the newest first, and publish those that are due.

        Args:
            stop: No further study is looked at once it is set.
            most_seconds: Time after which no further study is looked at.
        """
        end = self._clock() + most_seconds
        try:
            studies = records.first_stages_of_ended(self._storage)
        except Exception as error:  # whatever it is, pages must still be served
            self._warn("studies", error)
            return
        for name, ended in reversed(studies.items()):
            known = self._known.get(name)
            if known and known.is_over and ended is not None and known.first_stage == ended:
                continue  # nothing of it is read again
            if stop.is_set() or self._clock() > end:
                return
            try:
                self._look_at(name, ended)
            except Exception as error:  # as above
                self._warn(name, error)
                self._known[name] = _Known("", "", False, self._clock())

    def _look_at(self, name: str, ended: int | None) -> None:
        known, now = self._known.get(name), self._clock()
        is_early = known is not None and now - known.since < PERIOD_SECONDS
        if known is not None and known.is_over and is_early:
            return
        snapshot = read_snapshot(self._storage, name)
        content = content_of(snapshot)
        if known is not None and known.content == content:
            if known.is_over:
                self._known[name] = replace(known, since=now, first_stage=ended)
            return
        if known is not None and is_early and known.milestone in ("", milestone_of(snapshot)):
            return
        is_published = publish(self._storage, name) != Outcome.BUSY
        if self._artifacts is not None and snapshot.state == "done":
            is_published &= keep_winner(self._storage, self._artifacts, snapshot)
        if is_published:  # else another process is doing so, and the next look tries again
            is_over = snapshot.state in ("done", "failed")
            self._known[name] = _Known(content, milestone_of(snapshot), is_over, now, ended)
            self._warnings.pop(name, None)

    def _warn(self, name: str, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if self._warnings.get(name) != text:
            logger.warning("publishing %s in the dashboard: %s", name, text)
        self._warnings[name] = text


def milestone_of(snapshot: StudySnapshot) -> str:
    """Digest that changes when a stage or the study begins, ends or is stopped."""
    stages = [(stage.n, str(stage.progress), stage.kept) for stage in snapshot.plan.stages]
    confirmation = snapshot.plan.confirmation
    last = confirmation and (confirmation.seeds, confirmation.is_over)
    return hashlib.sha256(repr((snapshot.state, stages, last)).encode()).hexdigest()
