"""What optuna-dashboard shows of a study beside its trials, in the rows in which it looks for it.

Its own functions (``save_note``, ``save_plotly_graph_object``) import a second's worth of packages
into every process that plans, and write row by row, so that a page could be read half-written.
Here a page changes in one transaction, or not at all. The format: texts in pieces, one system
attribute each, numbered from 0, those left over from a longer text being empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy

from kdecay_search.storage.connect import Storage

PIECE_LENGTH = 2045
"""Characters."""
OBJECTIVES = "study:metric_names"
NOTE_VERSION, NOTE = "dashboard:note_ver", "dashboard:note_str:"
FIGURE = "dashboard:plot_data:"
OWN_NOTE = "kdecay:note"
"""Digest of the note as it was last written here: one that differs was edited by somebody."""
PUBLISHED = "kdecay:published"

_READ = """
    SELECT key, value_json FROM study_system_attributes
    WHERE study_id = :study_id AND (key = ANY(:keys) OR starts_with(key, :note)
                                    OR starts_with(key, :figure))
"""
_WRITE = """
    INSERT INTO study_system_attributes (study_id, key, value_json)
    SELECT :study_id, * FROM unnest(cast(:keys AS text[]), cast(:values AS text[]))
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
"""
_PUBLISHED = """
    SELECT extract(epoch FROM clock_timestamp()),
      (SELECT value_json FROM study_system_attributes WHERE study_id = :study_id AND key = :key)
"""


@dataclass(frozen=True)
class Page:
    """One of Optuna's studies, as the dashboard is to show it."""

    objective: str
    note: str
    """Markdown."""
    figures: Mapping[str, str]
    """Plotly's JSON by id, of letters, digits and ``-_.``."""


@dataclass(frozen=True)
class Published:
    """What was written when; the pages say what they say for this much of a study."""

    content: str
    milestone: str
    seconds_ago: float
    """By the database's clock."""


def read_published(storage: Storage, first_stage: int) -> Published | None:
    """What was last written of the study whose first stage has this id."""
    values = {"study_id": first_stage, "key": PUBLISHED}
    with storage.engine.connect() as connection:
        now, text = connection.execute(sqlalchemy.text(_PUBLISHED), values).one()
    if text is None:
        return None
    told = json.loads(text)
    return Published(told["content"], told["milestone"], float(now) - told["at"])


def write_pages(
    storage: Storage, first_stage: int, pages: Mapping[int, Page], content: str, milestone: str
) -> None:
    """Write what differs of the pages, by Optuna's study id, and what they were made from."""
    with storage.engine.begin() as connection:
        for study_id, page in pages.items():
            stored = _stored(connection, study_id)
            _upsert(connection, study_id, _changed(stored, _attributes(page, stored)))
        now = connection.scalar(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())"))
        told = {"content": content, "milestone": milestone, "at": float(now or 0)}
        _upsert(connection, first_stage, {PUBLISHED: told})


def _stored(connection: sqlalchemy.Connection, study_id: int) -> dict[str, Any]:
    keys = [OBJECTIVES, NOTE_VERSION, OWN_NOTE]
    values = {"study_id": study_id, "keys": keys, "note": NOTE, "figure": FIGURE}
    rows = connection.execute(sqlalchemy.text(_READ), values)
    return {key: json.loads(text) for key, text in rows}


def _attributes(page: Page, stored: Mapping[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = {OBJECTIVES: [page.objective]}
    written |= _note(page.note, stored)
    for name, text in page.figures.items():
        written |= _pieces(f"{FIGURE}{name}:", text, stored)
    return written


def _note(note: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The note, unless somebody has edited it: then it is his."""
    pieces = sum(key.startswith(NOTE) for key in stored)
    present = "".join(stored.get(f"{NOTE}{index}", "") for index in range(pieces))
    if present and _digest(present) != stored.get(OWN_NOTE):
        return {}
    version = stored.get(NOTE_VERSION, 0) + (present != note)
    written = {NOTE_VERSION: version, OWN_NOTE: _digest(note)}
    return written | _pieces(NOTE, note, stored)


def _pieces(prefix: str, text: str, stored: Mapping[str, Any]) -> dict[str, str]:
    count = -(-len(text) // PIECE_LENGTH)
    former = sum(key.startswith(prefix) for key in stored)
    return {
        f"{prefix}{index}": text[index * PIECE_LENGTH : (index + 1) * PIECE_LENGTH]
        for index in range(max(count, former))
    }


def _changed(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in wanted.items() if k not in stored or stored[k] != v}


def _upsert(connection: sqlalchemy.Connection, study_id: int, attributes: dict[str, Any]) -> None:
    if attributes:
        texts = [json.dumps(value) for value in attributes.values()]
        values = {"study_id": study_id, "keys": list(attributes), "values": texts}
        connection.execute(sqlalchemy.text(_WRITE), values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
