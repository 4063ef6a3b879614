"""When studies are published while a dashboard shows them."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.artifacts import get_all_artifact_meta

from kdecay_search import reconcile
from kdecay_search.errors import StorageError
from kdecay_search.report.dashboard import artifacts, publication, publisher
from kdecay_search.report.dashboard.publisher import PERIOD_SECONDS, Publisher
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage
from kdecay_search.study.file import changed
from kdecay_search.study.trials import CONFIRMATION
from tests.report.dashboards import FIGURES, figures, launched, note, rows, seen, work


@dataclass
class Shown:
    """A publisher at work, and its clock."""

    storage: Storage
    publisher: Publisher = field(init=False)
    stop: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.storage, clock=lambda: self.seconds)

    def look(self, after: float = 0.0, most_seconds: float = float("inf")) -> None:
        self.seconds += after
        self.publisher.look(self.stop, most_seconds)


@pytest.fixture
def shown(own: Storage) -> Shown:
    return Shown(own)


def test_every_study_is_published_at_the_first_look_the_newest_first(
    own: Storage, shown: Shown
) -> None:
    for name in ("older", "newer"):
        launched(own, name)
    shown.look(most_seconds=-1.0)
    assert (note(own, "older"), note(own, "newer")) == ("", "")
    read_clock = iter([0.0, 0.0, 0.0])  # the end, and before and in the first study
    publisher = Publisher(own, clock=lambda: next(read_clock, 2.0))
    publisher.look(shown.stop, most_seconds=1.0)
    assert (note(own, "older"), "newer" in note(own, "newer")) == ("", True)
    shown.look()
    assert "older" in note(own, "older")


def test_results_are_shown_after_the_period_and_not_before(
    own: Storage, shown: Shown, name: str
) -> None:
    launched(own, name)
    shown.look()
    work(own, name, 2)
    before = rows(own)
    shown.look(after=PERIOD_SECONDS / 2)
    assert figures(own, name) == {}
    assert rows(own) == before
    shown.look(after=PERIOD_SECONDS / 2)
    assert note(own, name).count("1 to go") == 3
    assert set(figures(own, name)) == FIGURES


def test_nothing_is_written_while_nothing_happens(own: Storage, shown: Shown, name: str) -> None:
    launched(own, name)
    work(own, name, 1)
    shown.look()
    before = rows(own)
    for _ in range(3):
        shown.look(after=3600.0)
    Shown(own).look()
    assert rows(own) == before


def test_the_end_of_a_stage_and_of_the_study_is_shown_at_once(
    own: Storage, shown: Shown, name: str
) -> None:
    launched(own, name, max_terms=2, k_max=2.5, k_cap=2.5)
    shown.look()
    work(own, name, 4)
    reconcile.reconcile(own, name)
    shown.look(after=1.0)
    assert "**Done: k1 = 2 is kept.**" in note(own, name)
    assert "**Running.**" in note(own, name, 2)
    work(own, name, 1)
    shown.look(after=1.0)
    assert "**Done: no term is kept.**" in note(own, name, 2)
    for stage in (1, 2):
        assert "**The study is done.** " in note(own, name, stage)
        assert set(figures(own, name, stage)) == FIGURES


def test_stopping_and_resuming_is_shown_at_once(own: Storage, shown: Shown, name: str) -> None:
    launched(own, name)
    shown.look()
    reconcile.stop(own, name)
    shown.look(after=1.0)
    assert "**Stopped.**" in note(own, name)
    launched(own, name)
    shown.look(after=1.0)
    assert "**Running.**" in note(own, name)


def test_a_study_that_is_over_is_looked_at_less_often_and_shown_when_it_is_confirmed(
    own: Storage, shown: Shown, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(own, name)
    work(own, name, 5)
    shown.look()
    assert "The study is done" in note(own, name)
    looks = []

    def counted(storage: Storage, name: str) -> StudySnapshot:
        looks.append(name)
        return read_snapshot(storage, name)

    monkeypatch.setattr(publisher, "read_snapshot", counted)
    for _ in range(4):
        shown.look(after=PERIOD_SECONDS / 2)
    assert len(looks) == 2
    spec = read_snapshot(own, name).spec
    reconcile.confirm(own, changed(spec, "confirm", {"seeds": 2}, "test"))
    reconcile.reconcile(own, name)
    shown.look(after=PERIOD_SECONDS)
    assert "The study is running" in note(own, name)
    assert "6 runs to go" in note(own, name, CONFIRMATION)
    assert seen(own, name, CONFIRMATION).metric_names == ["test error, %"]


def test_a_study_that_another_process_publishes_is_looked_at_again(
    own: Storage, shown: Shown, name: str
) -> None:
    launched(own, name)
    work(own, name, 5)
    other = Storage(own.secret_url)
    with other.lock(f"dashboard/{name}") as held:
        assert held is not None
        shown.look()
    other.close()
    assert note(own, name) == ""
    shown.look(after=1.0)
    assert "The study is done" in note(own, name)


def test_what_happens_while_pages_are_made_is_shown_at_the_next_look(
    own: Storage, shown: Shown, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(own, name)
    work(own, name, 4)
    other = Storage(own.secret_url)
    make_pages = publication.make_pages

    def make_while_the_study_ends(*arguments: Any) -> Any:
        made = make_pages(*arguments)
        monkeypatch.setattr(publication, "make_pages", make_pages)
        work(other, name, 1)
        return made

    monkeypatch.setattr(publication, "make_pages", make_while_the_study_ends)
    shown.look()
    assert "**The study is running.** " in note(own, name)
    shown.look(after=1.0)
    assert "The study is done" in note(own, name)
    other.close()


def test_a_failure_is_logged_once_and_the_others_are_published(
    own: Storage, shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("well", "ill"):
        launched(own, name)
    write_page = publication.write_page

    def refuse(storage: Storage, study_name: str, page: Any) -> None:
        if study_name.startswith("ill"):
            raise StorageError("permission denied for table study_system_attributes")
        write_page(storage, study_name, page)

    monkeypatch.setattr(publication, "write_page", refuse)
    with caplog.at_level(logging.WARNING):
        for after in (0.0, 1.0, PERIOD_SECONDS, PERIOD_SECONDS):
            shown.look(after)
    assert [record.message for record in caplog.records] == [
        "publishing ill in the dashboard: StorageError: permission denied for table "
        "study_system_attributes"
    ]
    assert (note(own, "ill"), "well" in note(own, "well")) == ("", True)
    monkeypatch.undo()
    shown.look(after=1.0)
    assert note(own, "ill") == "", "it is tried again after the period"
    shown.look(after=PERIOD_SECONDS)
    assert "ill" in note(own, "ill")


def test_a_database_that_is_away_and_a_study_that_cannot_be_read_end_nothing(
    own: Storage, shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launched(own, "odd")
    with own.engine.begin() as connection:
        statement = "UPDATE study_user_attributes SET value_json = '\"{}\"' WHERE key = 'spec'"
        connection.execute(sqlalchemy.text(statement))
    shown.look()

    def fail(storage: Storage) -> list[str]:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(publisher.records, "first_stages_of_ended", fail)
    shown.look()
    assert ["InvalidSpec" in r.message or "nobody" in r.message for r in caplog.records] == [
        True,
        True,
    ]


def test_it_publishes_until_it_is_asked_to_stop(own: Storage, shown: Shown, name: str) -> None:
    launched(own, name)
    thread = threading.Thread(target=shown.publisher.run, args=(shown.stop,))
    shown.stop.set()
    thread.start()
    thread.join(timeout=240)
    assert not thread.is_alive()
    assert note(own, name) == ""


def test_what_finished_studies_found_is_kept_as_they_end(
    own: Storage, name: str, tmp_path: Path
) -> None:
    store = artifacts.artifact_store(str(tmp_path))
    publisher = Publisher(own, store)
    launched(own, name)
    publisher.look(threading.Event())
    assert get_all_artifact_meta(seen(own, name)) == []
    work(own, name, 5)
    for _ in range(2):
        publisher.look(threading.Event())
    kept = {meta.filename for meta in get_all_artifact_meta(seen(own, name))}
    assert kept == {f"{name}-k-2.py", f"{name}-k-2.json"}
