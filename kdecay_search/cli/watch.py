"""Showing a study while it runs: live in a terminal, as plain lines in a pipe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.live import Live

from kdecay_search.errors import StorageUnavailable
from kdecay_search.report.text import news, study_panel
from kdecay_search.storage.connect import retried

if TYPE_CHECKING:
    from rich.console import Console

    from kdecay_search.snapshot import StudySnapshot

PERIOD_SECONDS = 0.5


def watch_study(
    look: Callable[[], StudySnapshot],
    console: Console,
    check: Callable[[], None] = lambda: None,
) -> StudySnapshot:
    """Look at a study until it no longer runs; return the last snapshot.

    ``check`` is called at every look and may raise to end the watch.
    """
    if console.is_terminal:
        return _watch_live(look, console, check)
    return _watch_lines(look, console, check)


def _watch_live(
    look: Callable[[], StudySnapshot], console: Console, check: Callable[[], None]
) -> StudySnapshot:
    snapshot = retried(look)()
    pace = _Pace(snapshot)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(study_panel(snapshot, pace.seconds_left(snapshot)), refresh=True)
            if snapshot.state != "running":
                return snapshot
            _check(check)
            time.sleep(PERIOD_SECONDS)
            snapshot = _look_again(look, snapshot)


def _watch_lines(
    look: Callable[[], StudySnapshot], console: Console, check: Callable[[], None]
) -> StudySnapshot:
    before = None
    while True:
        snapshot = retried(look)() if before is None else _look_again(look, before)
        for line in news(before, snapshot):
            console.print(line, markup=False, soft_wrap=True)
        if snapshot.state != "running":
            return snapshot
        before = snapshot
        _check(check)
        time.sleep(PERIOD_SECONDS)


def _check(check: Callable[[], None]) -> None:
    """Check; while the database is away, another time."""
    with contextlib.suppress(StorageUnavailable):
        check()


def _look_again(look: Callable[[], StudySnapshot], last: StudySnapshot) -> StudySnapshot:
    """The study now; while the database is away, as it was."""
    try:
        return look()
    except StorageUnavailable:
        return last


class _Pace:
    """How long the stages opened so far may still take, from the epochs seen to pass."""

    def __init__(self, snapshot: StudySnapshot) -> None:
        self._started = time.monotonic()
        self._epochs = snapshot.epochs_trained

    def seconds_left(self, snapshot: StudySnapshot) -> float | None:
        passed = snapshot.epochs_trained - self._epochs
        if passed <= 0:
            return None
        rate = passed / (time.monotonic() - self._started)
        per_run = snapshot.spec.task.epochs
        unfinished = sum(stage.to_go for stage in snapshot.plan.stages)
        if snapshot.plan.confirmation is not None:
            unfinished += sum(row.unfinished for row in snapshot.plan.confirmation.rows)
        begun = sum(trial.epochs for trial in snapshot.trials if trial.open)
        return max(0.0, unfinished * per_run - begun) / rate
