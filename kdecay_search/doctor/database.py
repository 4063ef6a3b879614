"""Checks of the database: reachable, right version, permissions, latency, free connections."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from sqlalchemy import Connection, TextClause

from kdecay_search.doctor.check import Check, error, ok, warning
from kdecay_search.errors import StorageError
from kdecay_search.storage import schema
from kdecay_search.storage.connect import mapped_errors, probe_engine
from kdecay_search.storage.sql import server as sql
from kdecay_search.storage.url import parse_url, shown

if TYPE_CHECKING:
    from psycopg2.extensions import ConnectionInfo

OLDEST_SERVER = 110000
"""Postgres 11, the first version with ``starts_with`` and ``hashtextextended``."""
ROUND_TRIPS = 20
SLOW_SECONDS = 0.1
"""A slower round trip is a warning: reporting one epoch takes about ten."""
CLOCK_SECONDS = 5.0
"""A larger difference between the database's clock and this machine's is a warning."""
CONNECTIONS_PER_WORKER = 2
NO_TABLES = "none yet; the first command that needs them creates them"
PERMISSIONS = ("SELECT", "INSERT", "UPDATE")
"""The permissions that a worker needs on the tables; only ``kdecay delete`` deletes rows."""
GUIDE = "see docs/operations.md for the SQL"

_FIXES = (
    ("Connection refused", "start Postgres there, or check listen_addresses and the port"),
    ("timeout expired", "check the host name, the port, and the firewalls in between"),
    ("translate host name", "check the host name"),
    ("password authentication failed", "check the user and the password in KDECAY_STORAGE"),
    ("SASL authentication failed", "check the user and the password in KDECAY_STORAGE"),
    ("no password supplied", "give the password in KDECAY_STORAGE or in ~/.pgpass"),
    ("SSL required", "ask for TLS at the end of the URL: sslmode=verify-full"),
    (
        "no encryption",
        "ask for TLS at the end of the URL (sslmode=verify-full), or allow plain text on the "
        "server",
    ),
    (
        "root certificate file",
        "name the certificate of the authority at the end of the URL: sslrootcert=FILE",
    ),
    (
        "certificate verify failed",
        "name the certificate of the server's authority in the URL: sslrootcert=FILE",
    ),
    ("does not match host name", "use the host name that is in the server's certificate"),
    ("has group or world access", "chmod 600 that file"),
    (
        "unsupported startup parameter",
        "remove it from the URL, or make PgBouncer ignore it (ignore_startup_parameters); "
        "ALTER ROLE can set a search_path",
    ),
    ("no pg_hba.conf entry", "allow this host, user and database in the server's pg_hba.conf"),
    ("does not exist", "ask the owner of the database to create it"),
    ("too many", "stop some workers, or raise max_connections on the server"),
    ("connection slots are reserved", "stop some workers, or raise max_connections on the server"),
    ("permission denied", f"GRANT it to this user; {GUIDE}"),
)
"""Pairs of a part of an error message of Postgres or libpq, and the fix."""


def database_checks(url: str, workers: int) -> Iterator[Check]:
    """Check a database.

    Args:
        url: The database.
        workers: How many workers ``kdecay launch`` would start on this machine.
    """
    target = parse_url(url)
    engine = probe_engine(target)
    try:
        with mapped_errors(target), engine.connect() as connection, connection.begin() as whole:
            for limit in sql.LIMITS:
                connection.execute(limit)
            yield _server(connection, shown(target))
            has_tables, tables = _tables(connection)
            yield tables
            yield _permissions(connection, has_tables)
            yield _round_trip(connection)
            yield _connections(connection, workers)
            yield _clock(connection)
            whole.rollback()
    except StorageError as raised:
        yield error("server", str(raised), fix_for(str(raised)))
    finally:
        engine.dispose()


def fix_for(message: str) -> str:
    """Return what to do about an error message of the database or of the embedded server."""
    return next((fix for part, fix in _FIXES if part in message), "look at the server's log")


def _server(connection: Connection, url: str) -> Check:
    server = connection.execute(sql.IDENTITY).one()
    link = _link(connection)
    tls = link.ssl_attribute("protocol") if link.ssl_in_use else "no TLS"
    way = "Unix socket" if _is_socket(connection) else tls
    pooler = " behind a pooler" if _is_pooled(connection) else ""
    value = f"Postgres {server.version.split()[0]}{pooler}, {way}: {url}"
    if server.number < OLDEST_SERVER:
        return error("server", value, "upgrade the server: Postgres 11 or newer is needed")
    return ok("server", value)


def _tables(connection: Connection) -> tuple[bool, Check]:
    """Return whether there are tables, and whether this machine's Optuna can use them."""
    stored = schema.read_version(connection)
    if stored is None:
        return False, ok("tables", NO_TABLES)
    wrong = schema.mismatch(stored)
    if wrong is not None:
        return True, error("tables", *wrong)
    return True, ok("tables", f"schema {stored}, as Optuna {version('optuna')} needs it")


def _permissions(connection: Connection, has_tables: bool) -> Check:
    """Do what a worker does and roll it back; then look up the permissions on all tables."""
    server = connection.execute(sql.IDENTITY).one()
    user = server.user_name
    refused = _refusal(connection, sql.TRY_WORK if has_tables else sql.TRY_CREATE)
    missing = _missing_permissions(connection) if has_tables and refused is None else []
    if refused is not None or missing:
        value = f"user {user}: {refused or 'may not ' + ', '.join(missing)}"
        if "read-only" in value:
            fix = "this server is a standby, or set read-only: use the URL of the primary"
            return error("permissions", value, fix)
        if has_tables:
            grant = f"{', '.join(PERMISSIONS)} ON ALL TABLES IN SCHEMA {server.schema_name}"
        else:
            grant = f"USAGE, CREATE ON SCHEMA {server.schema_name}"
        return error("permissions", value, f"GRANT {grant} TO {user}; {GUIDE}")
    can = "may work on the tables" if has_tables else "may create the tables"
    if has_tables and _refusal(connection, sql.TRY_DELETE) is not None:
        can += ", but not delete studies"
    if server.is_superuser and not _is_socket(connection):
        fix = f"give the workers a user with fewer permissions; {GUIDE}"
        return warning("permissions", f"user {user} is a superuser: may do anything", fix)
    return ok("permissions", f"user {user} {can}")


def _refusal(connection: Connection, statements: Sequence[TextClause]) -> str | None:
    """Execute and roll back; return why the database refuses it, or None if it does not."""
    number = -random.randrange(1, 2**31)
    values = {"id": number, "name": f"kdecay doctor {number}"}
    attempt = connection.begin_nested()
    try:
        with mapped_errors():
            for statement in statements:
                connection.execute(statement, values)
    except StorageError as raised:
        return str(raised).removeprefix("storage: ")
    finally:
        attempt.rollback()
    return None


def _missing_permissions(connection: Connection) -> list[str]:
    """List the missing permissions on Optuna's tables, and on the sequences of their ids."""
    values = {"verbs": list(PERMISSIONS), "names": list(schema.TABLES)}
    rows = connection.execute(sql.MISSING_PERMISSIONS, values)
    return [f"{verb} {name}" for verb, name in rows]


def _link(connection: Connection) -> ConnectionInfo:
    """Return what libpq knows about this connection."""
    driver = connection.connection.driver_connection
    assert driver is not None
    info: ConnectionInfo = driver.info
    return info


def _is_socket(connection: Connection) -> bool:
    """Whether this is a connection by a Unix socket, as to the embedded server."""
    return bool(_link(connection).host.startswith(("/", "@")))


def _is_pooled(connection: Connection) -> bool:
    """Whether there is a pooler in between, which reports a process id of its own invention."""
    server = connection.execute(sql.IDENTITY).one()
    return bool(server.pid != _link(connection).backend_pid)


def _round_trip(connection: Connection) -> Check:
    seconds = []
    for _ in range(ROUND_TRIPS):
        before = time.perf_counter()
        connection.execute(sql.PING)
        seconds.append(time.perf_counter() - before)
    median = statistics.median(seconds)
    value = f"{median * 1000:.1f} ms, median of {ROUND_TRIPS}"
    if median > SLOW_SECONDS:
        fix = "every epoch waits for about ten of these: use longer epochs, or a nearer database"
        return warning("round trip", value, fix)
    return ok("round trip", value)


def _connections(connection: Connection, workers: int) -> Check:
    """Check how many more workers the server has room for."""
    row = connection.execute(sql.CONNECTIONS).one()
    if _is_pooled(connection):
        value = f"{row[2]} of {row[0]} in use on the server, shared by the pooler's clients"
        return ok("connections", value)
    most, reserved, used, used_here, limit_here, limit_mine, used_by_me = map(int, row)
    left = most - reserved - used
    if limit_here >= 0:
        left = min(left, limit_here - used_here)
    if limit_mine >= 0:
        left = min(left, limit_mine - used_by_me)
    left = max(0, left + 1)  # this connection will be closed
    room = left // CONNECTIONS_PER_WORKER
    value = f"{used} of {most} in use, {left} left for this user: room for {room} more workers"
    fix = "raise max_connections (or the user's CONNECTION LIMIT), or stop what uses them"
    if not room:
        return error("connections", value, fix)
    if room < workers:
        return warning("connections", f"{value}; launch would start {workers} here", fix)
    return ok("connections", value)


def _clock(connection: Connection) -> Check:
    before = time.time()
    now = connection.scalar(sql.CLOCK)
    middle = (before + time.time()) / 2
    assert isinstance(now, datetime)
    ahead = now.timestamp() - middle
    relation = "ahead of" if ahead > 0 else "behind"
    value = f"the database is {abs(ahead):.1f} s {relation} this machine"
    if abs(ahead) > CLOCK_SECONDS:
        fix = (
            "synchronise both by NTP. Studies are not harmed, since only the database's clock "
            "decides, but times in logs and in Optuna's dashboard will not agree"
        )
        return warning("clock", value, fix)
    return ok("clock", value)
