"""Studies that have ended cost nothing: on a real database with 500 of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks.finished import add_finished
from kdecay_search import reconcile
from kdecay_search.snapshot import overview, read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext
from tests.support.kdecay_command import Kdecay, simulated_study

FINISHED = 500


def statements(storage: Storage, act: Callable[[], object]) -> int:
    executed: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        executed.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", note)
    act()
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", note)
    return len(executed)


def worker_of(storage: Storage, tmp_path: Path) -> Worker:
    context = WorkerContext("cpu", CheckpointFolder(tmp_path / "checkpoints"), threading.Event())
    return Worker(storage, Options(study=None, drain=True), context)


NO_HEARTBEATS = {"workers__heartbeat_seconds": 600, "workers__grace_seconds": 3600}
"""Heartbeats take statements by time, however few runs there are."""


def test_a_worker_executes_as_many_statements_as_without_them(own: Storage, tmp_path: Path) -> None:
    counts = []
    for finished, name in ((0, "before"), (20, "behind")):
        if finished:
            add_finished(own, finished)
        study = simulated_study(tmp_path, name=name, search__seeds=1, **NO_HEARTBEATS)
        reconcile.launch(own, load(study))
        counts.append(statements(own, worker_of(own, tmp_path).serve))
        assert read_snapshot(own, name).state == "done"
    idle = statements(own, worker_of(own, tmp_path).serve)
    assert counts[0] == counts[1]
    assert idle == 1


def test_500_finished_studies_are_listed_by_one_statement(own: Storage, alone: Kdecay) -> None:
    """What that takes is measured by ``benchmarks.finished``."""
    add_finished(own, FINISHED)
    assert statements(own, lambda: records.read_overviews(own)) == 1
    for command in (["list"], ["list", "--json"]):
        assert alone.run(*command).stdout.count("finished-") >= FINISHED


def test_what_is_noted_of_an_ended_study_is_what_its_trials_say(
    own: Storage, tmp_path: Path
) -> None:
    spec = load(simulated_study(tmp_path, name="noted", search__seeds=1, search__max_terms=2))
    reconcile.launch(own, spec)
    worker_of(own, tmp_path).serve()
    assert records.active_studies(own) == []
    assert records.read_overviews(own) == {"noted": overview(read_snapshot(own, "noted"))}


def test_an_ended_study_that_is_launched_with_more_to_do_is_active_again(
    own: Storage, tmp_path: Path
) -> None:
    for terms in (1, 2):
        spec = load(
            simulated_study(tmp_path, name="more", search__seeds=1, search__max_terms=terms)
        )
        reconcile.launch(own, spec)
        assert records.active_studies(own) == ["more"]
        assert records.read_overviews(own) == {"more": None}
        worker_of(own, tmp_path).serve()
        assert records.active_studies(own) == []
        assert len(records.stage_ids(own, "more")) == terms


def test_a_stopped_study_is_looked_at_until_nothing_of_it_runs(
    own: Storage, tmp_path: Path
) -> None:
    reconcile.launch(own, load(simulated_study(tmp_path, name="stopped")))
    reconcile.reconcile(own, "stopped")
    claim = queue.claim(own, "stopped", "me")
    assert claim is not None
    reconcile.stop(own, "stopped")
    reconcile.reconcile(own, "stopped")
    assert records.active_studies(own) == ["stopped"]
    queue.release(own, claim)
    reconcile.reconcile(own, "stopped")
    assert records.active_studies(own) == []
    assert records.read_overviews(own)["stopped"] == overview(read_snapshot(own, "stopped"))


def test_checkpoints_of_a_study_that_others_have_ended_are_removed(
    own: Storage, tmp_path: Path
) -> None:
    spec = load(simulated_study(tmp_path, name="left", search__seeds=1))
    reconcile.launch(own, spec)
    worker_of(own, tmp_path / "elsewhere").serve()
    folder = CheckpointFolder(tmp_path / "checkpoints").of_study(
        spec, records.read_study(own, "left").launch
    )
    folder.mkdir(parents=True)
    worker_of(own, tmp_path).serve()
    assert not folder.exists()
