"""Statements on a test's database, its users, and its contents."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy

from kdecay_search.storage.url import parse_url


def execute(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def as_user(url: str, options: str = "") -> tuple[str, str]:
    """The same database's URL for a new user, and that user's name."""
    name = f"user_{uuid.uuid4().hex}"
    execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'x' {options}")
    return parse_url(url).set(username=name, password="x").render_as_string(False), name


def contents(url: str) -> list[Any]:
    """Names of all relations with their rows, and where the sequences stand."""
    engine = sqlalchemy.create_engine(parse_url(url))
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        tables = run("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").all()
        rows = [(table, run(f"SELECT * FROM {table} ORDER BY 1").all()) for (table,) in tables]
        last = run("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1").all()
    engine.dispose()
    return [rows, last]
