"""The database: reachable, of the right version, with rights, near enough, with room."""

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

from kdecay_search.doctor.check import Check, bad, ok, warning
from kdecay_search.errors import StorageError
from kdecay_search.storage.connect import mapped_errors, parse_url, probe_engine, shown

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from psycopg2.extensions import ConnectionInfo

OLDEST_SERVER = 110000
"""Postgres 11, the first with ``starts_with`` and ``hashtextextended``."""
ROUND_TRIPS = 20
SLOW_SECONDS = 0.1
"""An epoch's report takes some ten round trips."""
CLOCK_SECONDS = 5.0
SOCKETS_PER_WORKER = 2
UPGRADE = "as their owner: optuna storage upgrade --storage postgresql+psycopg2://..."
"""With the driver's name: without it SQLAlchemy 2.1 looks for psycopg 3."""
NO_TABLES = "none yet; the first command that needs them makes them"
WORK = ("SELECT", "INSERT", "UPDATE")
"""What workers do to rows; only ``kdecay delete`` deletes them."""
GUIDE = "docs/operations.md has the SQL"

_MENDS = (
    ("Connection refused", "start Postgres there, and let it listen (listen_addresses, port)"),
    ("timeout expired", "look at the host's name, the port and the firewall between"),
    ("translate host name", "look at the host's name"),
    ("password authentication failed", "look at user and password in KDECAY_STORAGE"),
    ("SASL authentication failed", "look at user and password in KDECAY_STORAGE"),
    ("no password supplied", "give the password in KDECAY_STORAGE"),
    ("SSL required", "ask for TLS at the URL's end: sslmode=verify-full"),
    (
        "no encryption",
        "ask for TLS at the URL's end (sslmode=verify-full), or allow plain text there",
    ),
    (
        "root certificate file",
        "name the authority's certificate: sslrootcert=FILE at the URL's end",
    ),
    ("certificate verify failed", "name its authority's certificate: sslrootcert=FILE in the URL"),
    ("does not match host name", "name the host as the server's certificate does"),
    ("has group or world access", "chmod 600 that file"),
    (
        "unsupported startup parameter",
        "take it out of the URL, or have PgBouncer ignore it "
        "(ignore_startup_parameters); ALTER ROLE can set a search_path",
    ),
    ("no pg_hba.conf entry", "allow this host, user and database in the server's pg_hba.conf"),
    ("does not exist", "have the database's owner make it"),
    ("too many", "end some workers, or raise max_connections on the server"),
    ("connection slots are reserved", "end some workers, or raise max_connections on the server"),
    ("permission denied", f"GRANT it to this user; {GUIDE}"),
    ("socket path", "set KDECAY_HOME to a shorter path: a socket's may be 107 bytes long"),
)
"""What Postgres and libpq say, and what helps."""


def database_checks(url: str, workers: int) -> Iterator[Check]:
    """Look at the database of ``url`` on behalf of so many workers."""
    target = parse_url(url)
    engine = probe_engine(target)
    try:
        with mapped_errors(target), engine.connect() as connection, connection.begin() as all_of_it:
            connection.execute(text("SET LOCAL statement_timeout = '10s'"))
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            yield _server(connection, shown(target.set(drivername="postgresql")))
            has_tables, tables = _tables(connection)
            yield tables
            yield _rights(connection, has_tables)
            yield _round_trip(connection)
            yield _connections(connection, workers)
            yield _clock(connection)
            all_of_it.rollback()
    except StorageError as error:
        yield bad("server", str(error), mend_of(str(error)))
    finally:
        engine.dispose()


def mend_of(message: str) -> str:
    """What helps against an error that the database or the embedded server gave."""
    return next((mend for said, mend in _MENDS if said in message), "look at the server's log")


def _server(connection: Connection, url: str) -> Check:
    number = int(connection.scalar(text("SHOW server_version_num")))
    version = str(connection.scalar(text("SHOW server_version"))).split()[0]
    link = _link(connection)
    tls = link.ssl_attribute("protocol") if link.ssl_in_use else "no TLS"
    way = "Unix socket" if _is_socket(connection) else tls
    pooler = " behind a pooler" if _is_pooled(connection) else ""
    value = f"Postgres {version}{pooler}, {way}: {url}"
    if number < OLDEST_SERVER:
        return bad("server", value, "upgrade the server: Postgres 11 or newer is needed")
    return ok("server", value)


def _tables(connection: Connection) -> tuple[bool, Check]:
    """Whether there are tables, and whether this machine's Optuna can work on them."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return False, ok("tables", NO_TABLES)
    scripts = _migrations()
    needed = scripts.get_current_head()
    there = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if there == needed:
        return True, ok("tables", f"schema {there}, that of Optuna {optuna.__version__}")
    value = f"schema {there}; Optuna {optuna.__version__} needs {needed}"
    if there in {script.revision for script in scripts.walk_revisions()}:
        return True, bad("tables", value, UPGRADE)
    return True, bad("tables", value, "they are newer: run pip install -U optuna on this machine")


def _migrations() -> ScriptDirectory:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - half a second

    return ScriptDirectory(str(files("optuna") / "storages" / "_rdb" / "alembic"))


def _rights(connection: Connection, has_tables: bool) -> Check:
    """Try what a worker does, and roll it back; then ask about the tables that this left out."""
    user = connection.scalar(text("SELECT current_user"))
    schema = connection.scalar(text("SELECT current_schema()")) or "public"
    refused = _refusal(connection, _USE if has_tables else _MAKE)
    lacking = _lacking(connection) if has_tables and refused is None else []
    if refused is not None or lacking:
        value = f"user {user}: {refused or 'may not ' + ', '.join(lacking)}"
        if "read-only" in value:
            return bad("rights", value, "this is a standby or set read-only: name the primary")
        grant = f"{', '.join(WORK)} ON ALL TABLES" if has_tables else "USAGE, CREATE ON SCHEMA"
        where = f"IN SCHEMA {schema}" if has_tables else schema
        return bad("rights", value, f"GRANT {grant} {where} TO {user}; {GUIDE}")
    can = "may work on the tables" if has_tables else "may make the tables"
    if has_tables and _refusal(connection, _DELETE) is not None:
        can += ", but not delete studies"
    if connection.scalar(text("SHOW is_superuser")) == "on" and not _is_socket(connection):
        mend = f"give the workers a user with fewer rights; {GUIDE}"
        return warning("rights", f"user {user} {can}, and everything else: a superuser", mend)
    return ok("rights", f"user {user} {can}")


_MAKE = ("CREATE TABLE kdecay_doctor (id int)",)
_USE = (
    "INSERT INTO studies (study_id, study_name) VALUES (:id, :name)",
    "INSERT INTO trials (trial_id, number, study_id, state) VALUES (:id, 0, :id, 'WAITING')",
    "UPDATE trials SET state = 'RUNNING' WHERE trial_id = :id",
)
"""With negative ids of their own, so that no sequence moves."""
_DELETE = ("DELETE FROM trials WHERE trial_id = :id", "DELETE FROM studies WHERE study_id = :id")


def _refusal(connection: Connection, statements: tuple[str, ...]) -> str | None:
    """Why the database does not let this user do it; None if it does."""
    number = -random.randrange(1, 2**31)
    values = {"id": number, "name": f"kdecay doctor {number}"}
    attempt = connection.begin_nested()
    try:
        with mapped_errors():
            for statement in statements:
                connection.execute(text(statement), values)
    except StorageError as error:
        return str(error).removeprefix("storage: ")
    finally:
        attempt.rollback()
    return None


def _lacking(connection: Connection) -> list[str]:
    """Rights on Optuna's tables, and on the sequences of their ids, that the user has not."""
    from optuna.storages._rdb.models import BaseModel  # noqa: PLC0415 - the tables' names

    names = list(BaseModel.metadata.tables)
    statement = """
        SELECT wanted.right_, c.relname FROM pg_class c, unnest(:rights) AS wanted(right_)
        WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p')
          AND NOT has_table_privilege(c.oid, wanted.right_)
          AND (wanted.right_ = 'SELECT' OR c.relname <> 'version_info')
        UNION ALL
        SELECT 'USAGE', s.relname FROM pg_class s JOIN pg_depend d ON d.objid = s.oid
        JOIN pg_class c ON c.oid = d.refobjid
        WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relname <> 'version_info'
          AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
        ORDER BY 1, 2
    """
    rows = connection.execute(text(statement), {"rights": list(WORK), "names": names})
    return [f"{right} {name}" for right, name in rows]


def _link(connection: Connection) -> ConnectionInfo:
    """What libpq knows of this process's end of the connection."""
    driver = connection.connection.driver_connection
    assert driver is not None
    info: ConnectionInfo = driver.info
    return info


def _is_socket(connection: Connection) -> bool:
    """Whether it is a Unix socket, as the embedded server's."""
    return bool(_link(connection).host.startswith("/"))


def _is_pooled(connection: Connection) -> bool:
    """Whether somebody stands between: a pooler names a process of its own invention."""
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
        mend = "every epoch waits for some ten of these: use longer epochs, or a nearer database"
        return warning("round trip", value, mend)
    return ok("round trip", value)


def _connections(connection: Connection, workers: int) -> Check:
    """How many more workers the server has room for, beside this connection."""
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
    left = max(0, left + 1)  # this one is given back
    room = left // SOCKETS_PER_WORKER
    value = f"{used} of {most} in use, {left} left to this user: room for {room} more workers"
    mend = "raise max_connections (or the user's CONNECTION LIMIT), or end what uses them"
    if not room:
        return bad("connections", value, mend)
    if room < workers:
        return warning("connections", f"{value}; launch would start {workers} here", mend)
    return ok("connections", value)


def _clock(connection: Connection) -> Check:
    before = time.time()
    there = connection.scalar(text("SELECT clock_timestamp()"))
    middle = (before + time.time()) / 2
    assert isinstance(there, datetime)
    ahead = there.timestamp() - middle
    value = f"the database is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this clock"
    if abs(ahead) > CLOCK_SECONDS:
        mend = (
            "set both by NTP. Studies are not harmed, for only the database's clock decides; "
            "but times in logs and in Optuna's dashboard will not fit together"
        )
        return warning("clock", value, mend)
    return ok("clock", value)
