"""Connecting to Postgres, and the one boundary at which its errors become ours."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import optuna
import sqlalchemy
import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker

from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.storage.history import History

RETRY_SECONDS = 60.0
"""How long a repeatable statement is tried again while the database is unreachable."""
LOCK_SECONDS = 30.0
"""How long a process that holds a lock may be silent before the server takes it away."""
_CREATION = "kdecay"
"""The lock under which Optuna's tables are made; those of studies are ``kdecay/NAME``."""

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """A connection to the database that holds the studies: at most two sockets per process.

    ``revive`` is called when the database cannot be reached, before it is tried again: who owns
    the server starts it there.
    """

    def __init__(self, url: str, revive: Callable[[], None] = lambda: None) -> None:
        self.url = parse_url(url)
        self.revive = revive
        self.rdb = _open(self.url)
        """Optuna's storage as it is: for single trials, and where a cache would read too much."""
        self.optuna: BaseStorage = optuna.storages.get_storage(self.rdb)
        """Optuna's storage, cached: finished trials are read once per process."""
        self.histories: dict[str, dict[int, History]] = {}
        """What this process knows of the trials, by the study's name and Optuna's study id."""

    @property
    def engine(self) -> sqlalchemy.Engine:
        return self.rdb.engine

    @property
    def shown_url(self) -> str:
        """The URL without its password, for people to read."""
        return shown(self.url)

    @property
    def secret_url(self) -> str:
        """The URL with its password, for child processes (through their environment)."""
        return self.url.render_as_string(hide_password=False)

    @contextlib.contextmanager
    def lock(self, name: str, silence_seconds: float = LOCK_SECONDS) -> Iterator[Lock | None]:
        """Hold the advisory lock of ``name`` for one transaction; None if another holds it.

        A transaction's lock works behind a connection pooler, and ends with its connection. The
        server also ends it when the holder is silent for so long (frozen, or cut off), so that the
        others are not held up.
        """
        with mapped_errors(), self.engine.begin() as connection:
            is_held = _try_lock(connection, f"kdecay/{name}", silence_seconds)
            yield Lock(connection) if is_held else None

    def close(self) -> None:
        self.rdb.remove_session()
        self.engine.dispose()


@dataclass(frozen=True)
class Lock:
    """An advisory lock that this process holds, unless it was silent for too long."""

    _connection: sqlalchemy.Connection

    def confirm(self) -> None:
        """Raise :class:`StorageUnavailable` if the lock was lost in the meantime."""
        with mapped_errors():
            self._connection.execute(sqlalchemy.text("SELECT 1"))


def _try_lock(
    connection: sqlalchemy.Connection, name: str, silence_seconds: float = LOCK_SECONDS
) -> bool:
    """Take an advisory lock for the rest of the transaction, unless another holds it."""
    timeout = f"SET LOCAL idle_in_transaction_session_timeout = '{silence_seconds:g}s'"
    connection.execute(sqlalchemy.text(timeout))
    statement = "SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"
    return bool(connection.scalar(sqlalchemy.text(statement), {"name": name}))


def parse_url(url: str) -> URL:
    """Any usual spelling of a Postgres URL, rewritten for psycopg2.

    Raises :class:`StorageError` for other databases and malformed URLs; never shows a password.
    """
    form = "it has the form postgresql://user:password@host/database"
    if url.partition("://")[2].partition("/")[0].count("@") > 1:
        raise StorageError(f"the storage URL is malformed: {form}, with %40 for an @ in a password")
    try:
        parsed = make_url(url.strip())
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise StorageError(f"the storage URL is malformed; {form}") from None
    if backend not in ("postgresql", "postgres"):
        raise StorageError(
            f"storage URL {shown(parsed)}: {backend} is not supported; "
            "it must start with postgresql://"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def shown(url: URL) -> str:
    """The URL for people to read, without a password, wherever it stands."""
    secret = [key for key in url.query if "password" in key]
    return url.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)


def _open(url: URL) -> RDBStorage:
    """Optuna's storage on ``url``; its tables are made by the first process that comes."""
    os.environ["PGTZ"] = "UTC"  # heartbeats are naive timestamps: the same zone for everybody
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    text = url.render_as_string(hide_password=False)
    with mapped_errors(url):
        with probe_engine(url).connect() as connection:
            if _must_make_tables(connection):
                return _rdb_storage(text, is_known=False)
        return _rdb_storage(text, is_known=True)


def _must_make_tables(connection: sqlalchemy.Connection) -> bool:
    """Whether this process shall make the tables, or look them through; it has the lock for it.

    It asks for the lock again and again rather than wait for it in the database: behind a pooler,
    those who wait would use up the connections that the one who makes the tables needs.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while not _made_by_this_optuna(connection):
        if _try_lock(connection, _CREATION):
            return True
        connection.rollback()
        if time.monotonic() > deadline:
            raise StorageUnavailable("storage: another process is still making the tables")
        time.sleep(random.uniform(0.1, 0.3))
    return False


def probe_engine(url: URL) -> sqlalchemy.Engine:
    """For a look at the database: connections are not kept, and no tables are made."""
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=_CONNECT)


def _made_by_this_optuna(connection: sqlalchemy.Connection) -> bool:
    """Whether the tables need no further look; Optuna's own costs half a second of imports.

    Optuna makes ``alembic_version`` last, and makes it even where it is told to make no tables:
    who does not wait for that would make it a second time.
    """
    tables = "SELECT to_regclass('version_info'), to_regclass('alembic_version')"
    if None in connection.execute(sqlalchemy.text(tables)).one():
        return False
    statement = sqlalchemy.text("SELECT library_version FROM version_info")
    return bool(connection.scalar(statement) == optuna.__version__)


_CONNECT = {
    "connect_timeout": 10,
    "application_name": "kdecay",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds; keepalives do not run while data is on its way
}


_ENGINE = {"pool_size": 2, "max_overflow": 0, "pool_pre_ping": True, "connect_args": _CONNECT}


def _rdb_storage(url: str, is_known: bool) -> RDBStorage:
    template = url.replace("{", "{{").replace("}", "}}")  # Optuna formats it
    return (_StorageAsItIs if is_known else RDBStorage)(template, engine_kwargs=dict(_ENGINE))


class _StorageAsItIs(RDBStorage):
    """Optuna's storage on tables that need no look. Its own constructor looks, and imports alembic
    for that, a third of what a short command takes."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self.url = self._fill_storage_url_template(url)
        self.engine_kwargs = engine_kwargs
        self.skip_compatibility_check = True
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.engine = sqlalchemy.create_engine(self.url, **engine_kwargs)
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine))

    @functools.cached_property
    def _version_manager(self) -> _VersionManager:  # type: ignore[override]
        return _VersionManager(self.url, self.engine, self.scoped_session)


@contextlib.contextmanager
def mapped_errors(url: URL | None = None) -> Iterator[None]:
    """Turn what SQLAlchemy and Optuna raise for a database into :class:`StorageError`."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        text = _one_line(cause or error)
        where = f"storage {shown(url)}: " if url is not None else "storage: "
        if _is_outage(cause):
            raise StorageUnavailable(where + text) from error
        raise StorageError(where + text) from error
    except RuntimeError as error:  # Optuna's word on a schema of another version
        if "optuna storage upgrade" in str(error) or "version" in str(error):
            raise StorageError(f"storage: {_one_line(error)}") from error
        raise


def retried(function: Callable[P, T]) -> Callable[P, T]:
    """Repeat ``function`` while the database is unreachable, for up to ``RETRY_SECONDS``.

    Only for what may be done twice: a connection may drop after the server has committed.
    """
    return retried_for(RETRY_SECONDS, function)


def retried_for(
    seconds: float, function: Callable[P, T], tell: Callable[[str], None] = lambda text: None
) -> Callable[P, T]:
    """As :func:`retried`; ``tell`` hears of the first failure."""

    @functools.wraps(function)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        def revive(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                tell(str(state.outcome.exception()))
            _revive(args)

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageUnavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
            stop=tenacity.stop_after_delay(seconds),
            before_sleep=revive,
            reraise=True,
        )
        return attempts(mapped, *args, **kwargs)

    @functools.wraps(function)
    def mapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with mapped_errors():
            return function(*args, **kwargs)

    return repeated


def _revive(arguments: tuple[object, ...]) -> None:
    for storage in arguments[:1]:
        if isinstance(storage, Storage):
            storage.revive()


def _is_outage(error: BaseException | None) -> bool:
    return isinstance(error, sqlalchemy.exc.TimeoutError) or (
        isinstance(error, DBAPIError)
        and (error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError))
    )


def _one_line(error: BaseException) -> str:
    """The database's own words, without SQLAlchemy's frame around them."""
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
