"""Checks of the database: reachable, right version, permissions, latency, free connections."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING

import optuna
from sqlalchemy import Connection, text

from kdecay_search.doctor.check import Check, error, ok, warning
from kdecay_search.errors import StorageError
from kdecay_search.storage.connect import mapped_errors, parse_url, probe_engine, shown

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
UPGRADE = "run as their owner: optuna storage upgrade --storage postgresql+psycopg2://..."
"""The URL names the driver, since SQLAlchemy 2.1 would otherwise look for psycopg 3."""
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
            connection.execute(text("SET LOCAL statement_timeout = '10s'"))
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            yield _server(connection, shown(target.set(drivername="postgresql")))
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
    number = int(connection.scalar(text("SHOW server_version_num")))
    version = str(connection.scalar(text("SHOW server_version"))).split()[0]
    link = _link(connection)
    tls = link.ssl_attribute("protocol") if link.ssl_in_use else "no TLS"
    way = "Unix socket" if _is_socket(connection) else tls
    pooler = " behind a pooler" if _is_pooled(connection) else ""
    value = f"Postgres {version}{pooler}, {way}: {url}"
    if number < OLDEST_SERVER:
        return error("server", value, "upgrade the server: Postgres 11 or newer is needed")
    return ok("server", value)


def _tables(connection: Connection) -> tuple[bool, Check]:
    """Return whether there are tables, and whether this machine's Optuna can use them."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return False, ok("tables", NO_TABLES)
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - half a second

    migrations = ScriptDirectory(str(files("optuna") / "storages" / "_rdb" / "alembic"))
    needed = migrations.get_current_head()
    stored = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if stored == needed:
        return True, ok("tables", f"schema {stored}, as Optuna {optuna.__version__} needs it")
    value = f"schema {stored}; Optuna {optuna.__version__} needs {needed}"
    if stored in {script.revision for script in migrations.walk_revisions()}:
        return True, error("tables", value, UPGRADE)
    fix = "the tables are newer: run pip install -U optuna on this machine"
    return True, error("tables", value, fix)


def _permissions(connection: Connection, has_tables: bool) -> Check:
    """Do what a worker does and roll it back; then look up the permissions on all tables."""
    user = connection.scalar(text("SELECT current_user"))
    schema = connection.scalar(text("SELECT current_schema()")) or "public"
    refused = _refusal(connection, _USE if has_tables else _CREATE)
    missing = _missing_permissions(connection) if has_tables and refused is None else []
    if refused is not None or missing:
        value = f"user {user}: {refused or 'may not ' + ', '.join(missing)}"
        if "read-only" in value:
            fix = "this server is a standby, or set read-only: use the URL of the primary"
            return error("permissions", value, fix)
        if has_tables:
            grant = f"{', '.join(PERMISSIONS)} ON ALL TABLES IN SCHEMA {schema}"
        else:
            grant = f"USAGE, CREATE ON SCHEMA {schema}"
        return error("permissions", value, f"GRANT {grant} TO {user}; {GUIDE}")
    can = "may work on the tables" if has_tables else "may create the tables"
    if has_tables and _refusal(connection, _DELETE) is not None:
        can += ", but not delete studies"
    if connection.scalar(text("SHOW is_superuser")) == "on" and not _is_socket(connection):
        fix = f"give the workers a user with fewer permissions; {GUIDE}"
        return warning("permissions", f"user {user} is a superuser: may do anything", fix)
    return ok("permissions", f"user {user} {can}")


_CREATE = ("CREATE TABLE kdecay_doctor (id int)",)
_USE = (
    "INSERT INTO studies (study_id, study_name) VALUES (:id, :name)",
    "INSERT INTO trials (trial_id, number, study_id, state) VALUES (:id, 0, :id, 'WAITING')",
    "UPDATE trials SET state = 'RUNNING' WHERE trial_id = :id",
)
"""The ids are negative and given here, so that no sequence advances."""
_DELETE = ("DELETE FROM trials WHERE trial_id = :id", "DELETE FROM studies WHERE study_id = :id")


def _refusal(connection: Connection, statements: tuple[str, ...]) -> str | None:
    """Execute and roll back; return why the database refuses it, or None if it does not."""
    number = -random.randrange(1, 2**31)
    values = {"id": number, "name": f"kdecay doctor {number}"}
    attempt = connection.begin_nested()
    try:
        with mapped_errors():
            for statement in statements:
                connection.execute(text(statement), values)
    except StorageError as raised:
        return str(raised).removeprefix("storage: ")
    finally:
        attempt.rollback()
    return None


def _missing_permissions(connection: Connection) -> list[str]:
    """List the missing permissions on Optuna's tables, and on the sequences of their ids."""
    from optuna.storages._rdb.models import BaseModel  # noqa: PLC0415 - the tables' names

    names = list(BaseModel.metadata.tables)
    statement = """
        SELECT wanted.verb, c.relname FROM pg_class c, unnest(:verbs) AS wanted(verb)
        WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p')
          AND NOT has_table_privilege(c.oid, wanted.verb)
          AND (wanted.verb = 'SELECT' OR c.relname <> 'version_info')
        UNION ALL
        SELECT 'USAGE', s.relname FROM pg_class s JOIN pg_depend d ON d.objid = s.oid
        JOIN pg_class c ON c.oid = d.refobjid
        WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relname <> 'version_info'
          AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
        ORDER BY 1, 2
    """
    rows = connection.execute(text(statement), {"verbs": list(PERMISSIONS), "names": names})
    return [f"{verb} {name}" for verb, name in rows]


def _link(connection: Connection) -> ConnectionInfo:
    """Return what libpq knows about this connection."""
    driver = connection.connection.driver_connection
    assert driver is not None
    info: ConnectionInfo = driver.info
    return info


def _is_socket(connection: Connection) -> bool:
    """Whether this is a connection by a Unix socket, as to the embedded server."""
    return bool(_link(connection).host.startswith("/"))


def _is_pooled(connection: Connection) -> bool:
    """Whether there is a pooler in between, which reports a process id of its own invention."""
    server = connection.scalar(text("SELECT pg_backend_pid()"))
    return bool(server != _link(connection).backend_pid)


def _round_trip(connection: Connection) -> Check:
    seconds = []
    for _ in range(ROUND_TRIPS):
        before = time.perf_counter()
        connection.execute(text("SELECT 1"))
        seconds.append(time.perf_counter() - before)
    median = statistics.median(seconds)
    value = f"{median * 1000:.1f} ms, median of {ROUND_TRIPS}"
    if median > SLOW_SECONDS:
        fix = "every epoch waits for about ten of these: use longer epochs, or a nearer database"
        return warning("round trip", value, fix)
    return ok("round trip", value)


def _connections(connection: Connection, workers: int) -> Check:
    """Check how many more workers the server has room for."""
    statement = """
        SELECT current_setting('max_connections')::int,
               current_setting('superuser_reserved_connections')::int
                 + coalesce(current_setting('reserved_connections', true)::int, 0),
               (SELECT sum(numbackends) FROM pg_stat_database)::int,
               (SELECT sum(numbackends) FROM pg_stat_database WHERE datname = current_database()),
               (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
               (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
               (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
    """
    row = connection.execute(text(statement)).one()
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
    now = connection.scalar(text("SELECT clock_timestamp()"))
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
