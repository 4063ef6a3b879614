"""docs/operations.md is true: the rights that it gives suffice, and what a database can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from commands import Kdecay, simulated_study
from servers import PASSWORD, Server, password_server

from kdecay_search.storage.connect import parse_url

GUIDE = (Path(__file__).parent.parent / "docs/operations.md").read_text()
ADMIN_SQL, OWNER_SQL = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def server(storage_url: str) -> Iterator[Server]:
    with password_server() as started:
        execute(started.url(PASSWORD), "CREATE DATABASE kdecay")
        yield started


def execute(url: str, sql: str) -> None:
    """Run each of the statements by itself, as psql does."""
    engine = sqlalchemy.create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in filter(str.strip, sql.split(";")):
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def url_of(server: Server, user: str, password: str) -> str:
    password = password.replace(" ", "%20")
    return f"postgresql://{user}:{password}@127.0.0.1:{server.port}/kdecay"


@pytest.fixture(scope="module")
def users(home: Path, server: Server) -> tuple[Kdecay, Kdecay]:
    """The command as the owner and as the worker of the guide, with the guide's SQL run."""
    execute(server.url(PASSWORD).removesuffix("postgres") + "kdecay", ADMIN_SQL)
    owner = url_of(server, "kdecay_owner", "change me")
    Kdecay(home, owner).run("list")
    execute(owner, OWNER_SQL)
    return Kdecay(home, owner), Kdecay(home, url_of(server, "kdecay_worker", "change me too"))


def test_a_user_with_the_guide_s_rights_runs_a_study_to_its_end(
    users: tuple[Kdecay, Kdecay], tmp_path: Path
) -> None:
    owner, worker = users
    worker.run("doctor", simulated_study(tmp_path, name="least"))
    summary = worker.json("launch", simulated_study(tmp_path, name="least"), "--workers", "2")
    assert summary["state"] == "done"
    assert worker.run("delete", "least", "--yes", code=2).stderr.count("\n") == 1
    owner.run("delete", "least", "--yes")
    assert owner.json("list") == []
