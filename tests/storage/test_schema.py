"""Optuna's tables: who makes them, and which version is known; on a real Postgres."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.doctor.check import Severity
from kdecay_search.doctor.database import database_checks
from kdecay_search.errors import StorageUnavailable
from kdecay_search.storage import Storage, connect, schema
from kdecay_search.storage.url import parse_url, shown
from kdecay_search.study.file import load
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.postgres_servers import PASSWORD, Server

OLDER = ("v3.0.0.d", "have their owner run optuna storage upgrade")
NEWER = ("v9.1.0.a", "run pip install -U kdecay-search here")
"""A version of Optuna's tables that is older than the known one, a newer one, and what to do."""
COMMANDS = [
    ["list"],
    ["status", "aged"],
    ["best", "aged"],
    ["report", "aged"],
    ["plot", "aged"],
    ["plan", "aged"],
    ["confirm", "aged"],
    ["stop", "aged"],
    ["delete", "aged", "--yes"],
    ["publish", "aged"],
    ["dashboard", "--port", "0"],
    ["worker", "--study", "aged", "--drain"],
]
"""All commands that open the storage, except launch, which needs a file."""


def test_tables_of_another_version_are_refused_by_every_command(
    alone: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="aged")
    assert alone.url is not None
    with closing(Storage(alone.url)) as storage:
        reconcile.launch(storage, load(file))
        for (version, fix), commands in ((NEWER, COMMANDS[:1]), (OLDER, COMMANDS)):
            with storage.engine.begin() as connection:
                statement = "UPDATE alembic_version SET version_num = :version"
                connection.execute(sqlalchemy.text(statement), {"version": version})
            assert_refused(alone, [*commands, ["launch", file]], version, fix)


def assert_refused(alone: Kdecay, commands: list[list[str]], version: str, fix: str) -> None:
    assert alone.url is not None
    url = shown(parse_url(alone.url))
    line = (
        f"kdecay: storage {url}: Optuna's tables have version {version}, "
        f"but version {schema.VERSION} is needed; "
    )
    for command in commands:
        done = alone.run(*command, code=2)
        assert done.stdout == ""
        assert done.stderr.startswith(line), command
        assert fix in done.stderr
        assert done.stderr.count("\n") == 1
    errors = [c for c in database_checks(alone.url, 1) if c.severity == Severity.ERROR]
    assert any(fix in f"{check.value} {check.fix}" for check in errors), errors


def new_database(server: Server, name: str) -> str:
    """Its URL."""
    admin = sqlalchemy.create_engine(parse_url(server.url(PASSWORD)), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.url(PASSWORD).removesuffix("postgres") + name


def test_process_waits_for_the_last_of_the_tables(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(server, "half_made")
    first = Storage(url)
    with first.engine.begin() as maker:
        maker.execute(sqlalchemy.text("DROP TABLE alembic_version"))
    monkeypatch.setattr(connect, "RETRY_SECONDS", 0.3)
    with first.engine.begin() as maker:
        assert connect._try_lock(maker, connect._CREATION)
        with pytest.raises(StorageUnavailable, match="still making the tables"):
            Storage(url)
    Storage(url).close()
    first.close()


def test_many_processes_may_make_the_tables_at_once(server: Server) -> None:
    url = new_database(server, "fresh")
    code = "import sys; from kdecay_search.storage import Storage; Storage(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


def test_looking_imports_neither_optuna_nor_alembic(storage: Storage) -> None:
    """Both together take half a second."""
    code = (
        "import sys; from kdecay_search.storage import Storage, records; "
        "records.study_names(Storage(sys.argv[1])); print({'optuna', 'alembic'} & set(sys.modules))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code, storage.secret_url], text=True)
    assert printed == "set()\n"
