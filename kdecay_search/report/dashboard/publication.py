"""Writing a study's pages when what they show has changed, and not too often.

One process at a time writes them, outside the study's own lock; who finds another at it goes on
with its work. Pages are written whole or not at all, and from what the storage holds, so whoever
is killed here leaves nothing that the next tick does not heal.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from kdecay_search import __version__
from kdecay_search.report.dashboard.note import confirmation_note, stage_note
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, pages, records
from kdecay_search.study.trials import CONFIRMATION

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
"""Between two publications, unless a stage or the study has ended."""
DRAWING_SECONDS = 600.0
"""For which one process may draw, on however busy a machine: nobody waits for it."""
FORMAT = f"{__version__}-1"
"""Of the pages: another one writes them anew."""
OBJECTIVE = "validation error, %"
CONFIRMED = "test error, %"


@dataclass(frozen=True)
class _Known:
    """What this process knows to be published, and since when, by its own clock."""

    content: str
    milestone: str
    since: float


_known: WeakKeyDictionary[Storage, dict[str, _Known]] = WeakKeyDictionary()
_failed = False


def publish(
    storage: Storage, snapshot: StudySnapshot, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Bring the study's pages up to date if that is due; return whether they were written.

    Nothing that goes wrong here harms the study: it is logged, once in a process.
    """
    global _failed  # noqa: PLW0603 - told once in a process
    try:
        return _publish(storage, snapshot, clock)
    except Exception as error:
        if not _failed:
            logger.warning("the dashboard's pages of %s: %s", snapshot.spec.name, error)
        _failed = True
        again = _Known("", milestone_of(snapshot), clock())  # after the period
        _known.setdefault(storage, {})[snapshot.spec.name] = again
        return False


def _publish(storage: Storage, snapshot: StudySnapshot, clock: Callable[[], float]) -> bool:
    name = snapshot.spec.name
    by_name = _known.setdefault(storage, {})
    known = by_name.get(name)
    if known and not _is_due(snapshot, known.content, known.milestone, clock() - known.since):
        return False
    with storage.lock(f"dashboard/{name}", DRAWING_SECONDS) as held:
        if held is None:
            return False
        snapshot = read_snapshot(
            storage, name
        )  # what was read before the lock may be older than the pages
        first = records.stage_ids(storage, name)[1]
        last = pages.read_published(storage, first)
        if last and not _is_due(snapshot, last.content, last.milestone, last.seconds_ago):
            by_name[name] = _Known(last.content, last.milestone, clock() - last.seconds_ago)
            return False
        content, milestone = content_of(snapshot), milestone_of(snapshot)
        made = make_pages(storage, snapshot)
        held.confirm()
        pages.write_pages(storage, first, made, content, milestone)
    by_name[name] = _Known(content, milestone, clock())
    # Somebody who found us at it may have had news, and the last tick has no other after it.
    _publish(storage, read_snapshot(storage, name), clock)
    return True


def _is_due(snapshot: StudySnapshot, content: str, milestone: str, seconds_ago: float) -> bool:
    if milestone != milestone_of(snapshot):
        return True
    return seconds_ago >= PERIOD_SECONDS and content != content_of(snapshot)


def milestone_of(snapshot: StudySnapshot) -> str:
    """Changes when a stage or the study begins, ends or is stopped: published at once."""
    stages = [(stage.n, str(stage.progress), stage.kept) for stage in snapshot.plan.stages]
    confirmation = snapshot.plan.confirmation
    last = confirmation and (confirmation.seeds, confirmation.is_over)
    return _digest(FORMAT, snapshot.state, stages, last)


def content_of(snapshot: StudySnapshot) -> str:
    """Changes with everything that the pages show."""
    ended = sum(not trial.open for trial in snapshot.trials)
    return _digest(milestone_of(snapshot), ended, len(snapshot.trials), snapshot.epochs_trained)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def make_pages(storage: Storage, snapshot: StudySnapshot) -> dict[int, pages.Page]:
    """The pages of all stages that are open, by Optuna's study id."""
    ids = records.stage_ids(storage, snapshot.spec.name)
    drawn = _figures(storage, snapshot)
    made = {
        ids[stage.n]: pages.Page(
            OBJECTIVE, stage_note(snapshot, stage, ids), drawn.get(stage.n, {})
        )
        for stage in snapshot.plan.stages
        if stage.n in ids
    }
    if snapshot.plan.confirmation is not None and CONFIRMATION in ids:
        note = confirmation_note(snapshot, snapshot.plan.confirmation, ids)
        drawing = drawn.get(CONFIRMATION, {})
        made[ids[CONFIRMATION]] = pages.Page(CONFIRMED, note, drawing)
    return made


def _figures(storage: Storage, snapshot: StudySnapshot) -> dict[int, dict[str, str]]:
    """By stage; none before something has ended, so that a study begins without plotly."""
    if all(trial.open for trial in snapshot.trials):
        return {}
    from kdecay_search.report.dashboard.figures import stage_figures  # noqa: PLC0415 - plotly

    return stage_figures(storage, snapshot)
