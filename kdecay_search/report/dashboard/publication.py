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
from kdecay_search.snapshot import StudyView, read_view
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


def publish(storage: Storage, view: StudyView, clock: Callable[[], float] = time.monotonic) -> bool:
    """Bring the study's pages up to date if that is due; return whether they were written.

    Nothing that goes wrong here harms the study: it is logged, once in a process.
    """
    global _failed  # noqa: PLW0603 - told once in a process
    try:
        return _publish(storage, view, clock)
    except Exception as error:
        if not _failed:
            logger.warning("the dashboard's pages of %s: %s", view.spec.name, error)
        _failed = True
        again = _Known("", milestone_of(view), clock())  # after the period
        _known.setdefault(storage, {})[view.spec.name] = again
        return False


def _publish(storage: Storage, view: StudyView, clock: Callable[[], float]) -> bool:
    name = view.spec.name
    by_name = _known.setdefault(storage, {})
    known = by_name.get(name)
    if known and not _is_due(view, known.content, known.milestone, clock() - known.since):
        return False
    with storage.lock(f"dashboard/{name}", DRAWING_SECONDS) as held:
        if held is None:
            return False
        view = read_view(storage, name)  # what was read before the lock may be older than the pages
        first = records.stage_ids(storage, name)[1]
        last = pages.read_published(storage, first)
        if last and not _is_due(view, last.content, last.milestone, last.seconds_ago):
            by_name[name] = _Known(last.content, last.milestone, clock() - last.seconds_ago)
            return False
        content, milestone = content_of(view), milestone_of(view)
        made = make_pages(storage, view)
        held.confirm()
        pages.write_pages(storage, first, made, content, milestone)
    by_name[name] = _Known(content, milestone, clock())
    # Somebody who found us at it may have had news, and the last tick has no other after it.
    _publish(storage, read_view(storage, name), clock)
    return True


def _is_due(view: StudyView, content: str, milestone: str, seconds_ago: float) -> bool:
    if milestone != milestone_of(view):
        return True
    return seconds_ago >= PERIOD_SECONDS and content != content_of(view)


def milestone_of(view: StudyView) -> str:
    """Changes when a stage or the study begins, ends or is stopped: published at once."""
    stages = [(stage.n, str(stage.progress), stage.kept) for stage in view.plan.stages]
    confirmation = view.plan.confirmation
    last = confirmation and (confirmation.seeds, confirmation.is_over)
    return _digest(FORMAT, view.state, stages, last)


def content_of(view: StudyView) -> str:
    """Changes with everything that the pages show."""
    ended = sum(not trial.open for trial in view.trials)
    return _digest(milestone_of(view), ended, len(view.trials), view.epochs_trained)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def make_pages(storage: Storage, view: StudyView) -> dict[int, pages.Page]:
    """The pages of all stages that are open, by Optuna's study id."""
    ids = records.stage_ids(storage, view.spec.name)
    drawn = _figures(storage, view)
    made = {
        ids[stage.n]: pages.Page(OBJECTIVE, stage_note(view, stage, ids), drawn.get(stage.n, {}))
        for stage in view.plan.stages
        if stage.n in ids
    }
    if view.plan.confirmation is not None and CONFIRMATION in ids:
        note = confirmation_note(view, view.plan.confirmation, ids)
        drawing = drawn.get(CONFIRMATION, {})
        made[ids[CONFIRMATION]] = pages.Page(CONFIRMED, note, drawing)
    return made


def _figures(storage: Storage, view: StudyView) -> dict[int, dict[str, str]]:
    """By stage; none before something has ended, so that a study begins without plotly."""
    if all(trial.open for trial in view.trials):
        return {}
    from kdecay_search.report.dashboard.figures import stage_figures  # noqa: PLC0415 - plotly

    return stage_figures(storage, view)
