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

    from kdecay_search.snapshot import StudyView

PERIOD_SECONDS = 0.5


def watch_study(
    look: Callable[[], StudyView],
    console: Console,
    check: Callable[[], None] = lambda: None,
) -> StudyView:
    """Look at a study until it no longer runs; return the last view.

    ``check`` is called at every look and may raise to end the watch.
    """
    if console.is_terminal:
        return _watch_live(look, console, check)
    return _watch_lines(look, console, check)


def _watch_live(
    look: Callable[[], StudyView], console: Console, check: Callable[[], None]
) -> StudyView:
    view = retried(look)()
    pace = _Pace(view)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(study_panel(view, pace.seconds_left(view)), refresh=True)
            if view.state != "running":
                return view
            _check(check)
            time.sleep(PERIOD_SECONDS)
            view = _look_again(look, view)


def _watch_lines(
    look: Callable[[], StudyView], console: Console, check: Callable[[], None]
) -> StudyView:
    before = None
    while True:
        view = retried(look)() if before is None else _look_again(look, before)
        for line in news(before, view):
            console.print(line, markup=False, soft_wrap=True)
        if view.state != "running":
            return view
        before = view
        _check(check)
        time.sleep(PERIOD_SECONDS)


def _check(check: Callable[[], None]) -> None:
    """Check; while the database is away, another time."""
    with contextlib.suppress(StorageUnavailable):
        check()


def _look_again(look: Callable[[], StudyView], last: StudyView) -> StudyView:
    """The study now; while the database is away, as it was."""
    try:
        return look()
    except StorageUnavailable:
        return last


class _Pace:
    """How long the stages opened so far may still take, from the epochs seen to pass."""

    def __init__(self, view: StudyView) -> None:
        self._started = time.monotonic()
        self._epochs = view.epochs_trained

    def seconds_left(self, view: StudyView) -> float | None:
        passed = view.epochs_trained - self._epochs
        if passed <= 0:
            return None
        rate = passed / (time.monotonic() - self._started)
        per_run = view.spec.task.epochs
        unfinished = sum(stage.to_go for stage in view.plan.stages)
        if view.plan.confirmation is not None:
            unfinished += sum(row.unfinished for row in view.plan.confirmation.rows)
        begun = sum(trial.epochs for trial in view.trials if trial.open)
        return max(0.0, unfinished * per_run - begun) / rate
