"""Connecting, and the study's lock: on a real Postgres."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.storage import Storage, records
from kdecay_search.storage.deletion import delete_study
from kdecay_search.storage.url import parse_url
from kdecay_search.study.file import load
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.postgres_servers import PASSWORD, Server
from tests.support.wait import wait_for


def test_lock_of_a_study_is_held_by_one_connection(storage: Storage) -> None:
    other = Storage(storage.secret_url)
    with storage.lock("a") as held, other.lock("a") as refused, other.lock("b") as unrelated:
        assert [lock is not None for lock in (held, refused, unrelated)] == [True, False, True]
    with other.lock("a") as released:
        assert released is not None
    other.close()


def test_silent_holder_loses_the_lock(storage: Storage) -> None:
    other = Storage(storage.secret_url)
    with pytest.raises(StorageUnavailable), storage.lock("silent lock", 0.3) as held:  # noqa: PT012
        assert held is not None
        held.confirm()
        wait_for(lambda: _is_free(other, "silent lock"), "the lock's release")
        held.confirm()
    other.close()


def test_server_with_a_password_serves_a_study_over_tcp(
    home: Path, server: Server, tmp_path: Path
) -> None:
    remote = Kdecay(home, server.url(PASSWORD, scheme="postgres"))
    summary = remote.json("launch", simulated_study(tmp_path, name="remote"), "--workers", "1")
    assert summary["state"] == "done"
    logs = "".join(path.read_text() for path in (home / "logs" / "remote").iterdir())
    assert "s3cret" not in logs + json.dumps(summary)


def test_wrong_password_is_one_line_that_does_not_show_it(home: Path, server: Server) -> None:
    refused = Kdecay(home, server.url("hunter2")).run("list", code=2)
    assert refused.stderr.count("\n") == 1
    assert "password authentication failed" in refused.stderr
    assert "***" in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout


def test_process_keeps_two_connections_at_most(server: Server) -> None:
    connected = Storage(server.url(PASSWORD))
    with connected.lock("a"), connected.engine.connect() as second:
        with connected.borrow_optuna() as optuna:
            optuna.get_all_studies()

        def connections() -> int | None:
            count = (
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'kdecay' AND datname = current_database()"
            )
            second.rollback()  # a transaction sees one moment
            return second.scalar(sqlalchemy.text(count))

        wait_for(lambda: connections() == 2, "the end of the third connection")
    connected.close()


def test_study_names_are_not_prefixes_of_each_other(storage: Storage, tmp_path: Path) -> None:
    for name in ("net", "net.k1", "net-2"):
        reconcile.launch(storage, load(simulated_study(tmp_path, name=name)))
        reconcile.reconcile(storage, name)
    delete_study(storage, "net")
    assert records.read_trials(storage, "net") == []
    assert {"net.k1", "net-2"} <= set(records.study_names(storage))
    assert len(records.read_trials(storage, "net-2")) == 5 * 2


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://u:hunter2@h/d", "nonsense", "", "://"])
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(StorageError) as refused:
        parse_url(url)
    assert "postgresql://" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_a_url_means_psycopg2(scheme: str) -> None:
    assert parse_url(f"{scheme}://u:p@host/db").drivername == "postgresql+psycopg2"


def test_unreachable_server_is_unavailable() -> None:
    with pytest.raises(StorageUnavailable, match="refused"):
        Storage("postgresql://u:p@127.0.0.1:9/d")


def _is_free(storage: Storage, lock: str) -> bool:
    with storage.lock(lock) as held:
        return held is not None
