"""Publishing a study in Optuna's dashboard: a note and figures for each of its stages.

Everything is written by Optuna's own functions, and read back by any dashboard on the same storage.
What has not changed is not written again, and a note that a user has edited is kept.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import optuna
import optuna_dashboard
import plotly.graph_objects as go

from kdecay_search import __version__
from kdecay_search.report import metrics
from kdecay_search.report.dashboard.figures import stage_figures
from kdecay_search.report.dashboard.note import confirmation_note, stage_note
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import CONFIRMATION

LOCK_SECONDS = 600.0
"""How long a process may draw figures under the lock without a word to the database."""
FORMAT = f"{__version__}-3"
"""Part of every digest of a study: pages in another format are written anew."""

CONTENT = "kdecay:published"
"""Attribute of the first stage: the digest of the study that all its pages were made from."""
SHOWN_VERSION = "dashboard:note_ver"
"""Attribute of a stage, of Optuna's dashboard: how often its note was written, by anybody."""
NOTE = "kdecay:note"
"""Attribute of a stage: the digest of the note that was last written here."""
NOTE_VERSION = "kdecay:note-version"
"""Attribute of a stage: the value of :data:`SHOWN_VERSION` with that note."""
FIGURES = "kdecay:figures"
"""Attribute of a stage: the digests of the figures that were last written here, by id."""


class Outcome(StrEnum):
    """What came of an attempt to publish a study."""

    PUBLISHED = "published"
    """Something has changed, and was written."""
    UNCHANGED = "unchanged"
    """The pages show the study as it is; nothing was written."""
    BUSY = "busy"
    """Another process is publishing the study at this moment."""


@dataclass(frozen=True)
class Page:
    """What the dashboard shows of one of Optuna's studies, beside its trials."""

    objective: str
    """Name of the objective: what a trial's value is."""
    note: str
    """Markdown."""
    figures: Mapping[str, go.Figure]
    """Figures by id, which consists of letters, digits and ``-_:.``."""


def publish(storage: Storage, name: str) -> Outcome:
    """Bring a study's notes and figures up to date.

    Nothing is written if the storage holds the pages of the study as it is now. One process at a
    time writes the pages of a study. A process that is killed here leaves nothing that the next
    call does not repair.

    Raises:
        StudyError: There is no such study.
        StorageError: The database refused.
    """
    if _is_published(storage, read_snapshot(storage, name)):
        return Outcome.UNCHANGED
    with storage.lock(f"dashboard/{name}", LOCK_SECONDS) as held:
        if held is None:
            return Outcome.BUSY
        snapshot = read_snapshot(storage, name)
        if _is_published(storage, snapshot):
            return Outcome.UNCHANGED
        ids = records.stage_ids(storage, name)
        for stage, page in make_pages(storage, snapshot, ids).items():
            held.confirm()
            write_page(storage, records.stage_name(name, stage), page)
        storage.optuna.set_study_system_attr(ids[1], CONTENT, content_of(snapshot))
    return Outcome.PUBLISHED


def _is_published(storage: Storage, snapshot: StudySnapshot) -> bool:
    first = records.stage_ids(storage, snapshot.spec.name)[1]
    return storage.optuna.get_study_system_attrs(first).get(CONTENT) == content_of(snapshot)


def content_of(snapshot: StudySnapshot) -> str:
    """Digest of everything that the pages are made from."""
    trials = sorted((t.trial_id, str(t.state), t.epochs) for t in snapshot.trials)
    return _digest(repr((FORMAT, snapshot.spec.to_json(), snapshot.stopped, trials)))


def make_pages(
    storage: Storage, snapshot: StudySnapshot, stage_ids: Mapping[int, int]
) -> dict[int, Page]:
    """The pages of all stages that are open, by stage; figures from the first ended run on."""
    plan, metric = snapshot.plan, snapshot.spec.task.metric
    has_begun = any(not trial.open for trial in snapshot.trials)
    figures = stage_figures(storage, snapshot) if has_begun else {}
    pages = {
        stage.n: Page(
            metric.label, stage_note(snapshot, stage, stage_ids), figures.get(stage.n, {})
        )
        for stage in plan.stages
    }
    if plan.confirmation is not None:
        note = confirmation_note(snapshot, plan.confirmation, stage_ids)
        objective = metrics.with_unit(metrics.test_name(metric), metric)
        pages[CONFIRMATION] = Page(objective, note, figures.get(CONFIRMATION, {}))
    return {stage: page for stage, page in pages.items() if stage in stage_ids}


def write_page(storage: Storage, study_name: str, page: Page) -> None:
    """Write what differs of a page to one of Optuna's studies."""
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    if study.metric_names != [page.objective]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([page.objective])
    _write_note(storage, study, page.note)
    _write_figures(storage, study, page.figures)


def _write_note(storage: Storage, study: optuna.Study, note: str) -> None:
    """Write a stage's note, unless a user has edited the present one.

    A note is this program's if it is, word for word, the one last written here, or if its version
    is not above that one's, which is recorded before it is written: then a process was killed
    between its rows.
    """
    present = optuna_dashboard.get_note(study)
    study_id = study._study_id
    attributes = storage.optuna.get_study_system_attrs(study_id)
    version = attributes.get(SHOWN_VERSION, 0)
    is_own = version <= attributes.get(NOTE_VERSION, 0) or _digest(present) == attributes.get(NOTE)
    if present == note or (present and not is_own):
        return
    storage.optuna.set_study_system_attr(study_id, NOTE, _digest(note))
    storage.optuna.set_study_system_attr(study_id, NOTE_VERSION, version + 1)
    optuna_dashboard.save_note(study, note)


def _write_figures(storage: Storage, study: optuna.Study, figures: Mapping[str, go.Figure]) -> None:
    """Write the figures that differ from those last written here.

    Their digests are withdrawn before: of a process that is killed between a figure's rows, that
    figure is written again.
    """
    study_id = study._study_id
    written = storage.optuna.get_study_system_attrs(study_id).get(FIGURES, {})
    digests = {name: _digest(figure.to_json()) for name, figure in figures.items()}
    changed = [name for name, digest in digests.items() if written.get(name) != digest]
    if changed:
        kept = {name: digest for name, digest in written.items() if name not in changed}
        storage.optuna.set_study_system_attr(study_id, FIGURES, kept)
        for name in changed:
            optuna_dashboard.save_plotly_graph_object(study, figures[name], graph_object_id=name)
        storage.optuna.set_study_system_attr(study_id, FIGURES, kept | digests)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
