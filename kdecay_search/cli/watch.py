"""Show a running study: live in a terminal, by plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.live import Live

from kdecay_search.cli.output import Safe, is_live
from kdecay_search.errors import StorageUnavailable
from kdecay_search.report.text import news, study_panel
from kdecay_search.storage.connect import retried
from kdecay_search.study.trials import State

if TYPE_CHECKING:
    from rich.console import Console

    from kdecay_search.snapshot import StudySnapshot

PERIOD_SECONDS = 0.5
"""The time between two reads of the study."""


def watch_study(
    read: Callable[[], StudySnapshot],
    console: Console,
    check: Callable[[], None] = lambda: None,
) -> StudySnapshot:
    """Show a study until it no longer runs.

    While the database is out of reach, the last snapshot stays.

    Args:
        read: Reads the study.
        console: Where to show it.
        check: Called after every read; may raise to end the watch.

    Returns:
        The last snapshot.
    """
    snapshot = retried(read)()
    show = _live(console, snapshot) if is_live(console) else _by_lines(console)
    with show as update:
        while True:
            update(snapshot)
            if snapshot.state != "running":
                return snapshot
            with contextlib.suppress(StorageUnavailable):
                check()
            time.sleep(PERIOD_SECONDS)
            with contextlib.suppress(StorageUnavailable):
                snapshot = read()


@contextlib.contextmanager
def _live(console: Console, first: StudySnapshot) -> Iterator[Callable[[StudySnapshot], None]]:
    pace = _Pace(first)
    result_follows = sys.stdout.isatty()
    with Live(
        console=console, auto_refresh=False, vertical_overflow="crop", transient=result_follows
    ) as live:
        yield lambda snapshot: live.update(
            Safe(study_panel(snapshot, pace.seconds_left(snapshot))), refresh=True
        )


@contextlib.contextmanager
def _by_lines(console: Console) -> Iterator[Callable[[StudySnapshot], None]]:
    before: StudySnapshot | None = None

    def update(snapshot: StudySnapshot) -> None:
        nonlocal before
        for line in news(before, snapshot):
            console.print(Safe(line), soft_wrap=True)
        before = snapshot

    yield update


class _Pace:
    """Estimates the remaining time of the stages opened so far, by the pace of their training."""

    def __init__(self, snapshot: StudySnapshot) -> None:
        self._started = time.monotonic()
        self._epochs = snapshot.epochs_trained

    def seconds_left(self, snapshot: StudySnapshot) -> float | None:
        """Return the estimate; None until a run has reported."""
        passed = snapshot.epochs_trained - self._epochs
        if passed <= 0:
            return None
        rate = passed / (time.monotonic() - self._started)
        length = snapshot.spec.task.length
        unfinished = sum(stage.to_go for stage in snapshot.plan.stages)
        if snapshot.plan.confirmation is not None:
            unfinished += sum(row.unfinished for row in snapshot.plan.confirmation.rows)
        under_way = (t for t in snapshot.trials if t.open or t.state == State.PAUSED)
        begun = sum(length.position(trial.epochs) for trial in under_way)
        return max(0.0, unfinished * length.total - begun) / rate
