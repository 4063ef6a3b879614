"""A probe into the database: which process has just claimed a trial, and which reconciles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

NOT_REPORTED = """
    SELECT a.value_json FROM trials t JOIN studies s USING (study_id)
    JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'worker'
    WHERE t.state = 'RUNNING' AND s.study_name LIKE %s AND NOT EXISTS
      (SELECT 1 FROM trial_intermediate_values v WHERE v.trial_id = t.trial_id)
"""
LOCK_HOLDERS = """
    SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted
"""


class DatabaseProbe:
    """Asks the database what a process is doing, over a connection of its own."""

    def __init__(self, connection: Any, study: str) -> None:
        self._connection = connection
        self._study = study

    def has_claimed(self, worker: str | None) -> bool:
        """Whether the worker has claimed a trial and not yet reported an epoch of it."""
        rows = self._rows(NOT_REPORTED, f"{self._study}/k%")
        return worker in [json.loads(row[0]) for row in rows]

    def is_reconciling(self, pid: int) -> bool:
        """Whether the process holds the study's lock, and so reconciles the study."""
        return bool({row[0] for row in self._rows(LOCK_HOLDERS)} & _ports(pid))

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())


@contextmanager
def database_probe(url: str, study: str) -> Iterator[DatabaseProbe]:
    """Connect a probe for the length of a ``with`` block.

    Raises:
        psycopg2.Error: The database is unavailable.
    """
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        yield DatabaseProbe(connection, study)
    finally:
        connection.close()


def _ports(pid: int) -> set[int]:
    """Local TCP ports (IPv4) that a process has open."""
    process = Path(f"/proc/{pid}")
    try:
        links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        table = (process / "net" / "tcp").read_text().splitlines()[1:]
    except OSError:  # it has ended
        return set()
    sockets = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    fields = [line.split() for line in table]
    return {int(field[1].split(":")[1], 16) for field in fields if field[9] in sockets}
