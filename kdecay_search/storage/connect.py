"""Connecting to Postgres, and the one boundary at which its errors become ours."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import sqlalchemy
import tenacity
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.storage import schema
from kdecay_search.storage.history import History
from kdecay_search.storage.sql import server
from kdecay_search.storage.url import DRIVER, parameters_of, parse_url, shown, with_secrets

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

RETRY_SECONDS = 60.0
"""How long a statement that may be repeated is retried while the database is unreachable."""
LOCK_SECONDS = 30.0
"""How long a process that holds a lock may be silent before the server takes it away."""
_CREATION = "kdecay"
"""Name of the lock under which Optuna's tables are made; a study's lock is ``kdecay/NAME``."""

_CONNECT = {
    "connect_timeout": 10,
    "application_name": "kdecay",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds; keepalives are not sent while data is on its way
}

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """The database that holds the studies.

    Optuna's own storage, which creating and deleting studies, samplers and the dashboard need,
    opens a further connection, which :meth:`borrow_optuna` closes.

    Args:
        url: The database, in any form that libpq accepts.
        revive: Called when the database cannot be reached, before the next attempt; the owner of an
            embedded server starts it again there.
        connections: How many connections this process keeps at most: one for each trial that it
            holds, and one more.

    Raises:
        StorageUnavailable: The database cannot be reached.
        StorageError: The URL is malformed, or the database refuses the user, or its tables have
            another version than :data:`kdecay_search.storage.schema.VERSION`.
    """

    def __init__(
        self, url: str, revive: Callable[[], None] = lambda: None, connections: int = 2
    ) -> None:
        self.url = parse_url(url)
        self.revive = revive
        self.histories: dict[str, History] = {}
        """What this process knows of the trials, by the study's name."""
        self._borrowed = threading.Lock()
        os.environ["PGTZ"] = "UTC"  # heartbeats are naive timestamps: the same zone for everybody
        self.engine = make_engine(self.url, pool_size=connections, max_overflow=0)
        try:
            with mapped_errors(self.url):
                self._open_tables()
        except StorageError:
            self.engine.dispose()
            raise

    @functools.cached_property
    def rdb(self) -> RDBStorage:
        """Optuna's storage as it is, without a cache: for single trials.

        It is opened when it is first asked for: its constructor imports alembic, which takes a
        quarter of a second, and short commands and most workers do not need it.
        """
        return self._open_optuna(makes_tables=False)

    @functools.cached_property
    def optuna(self) -> BaseStorage:
        """Optuna's storage, cached: it reads an ended trial once per process."""
        from optuna.storages import get_storage  # noqa: PLC0415 - a quarter of a second

        return get_storage(self.rdb)

    @contextlib.contextmanager
    def borrow_optuna(self) -> Iterator[BaseStorage]:
        """Use Optuna's storage for a moment; the connection that it opens is closed afterwards.

        One thread at a time does.
        """
        with self._borrowed:
            try:
                yield self.optuna
            finally:
                self.rdb.engine.dispose()

    @property
    def shown_url(self) -> str:
        """The URL without its password, for people to read."""
        return shown(self.url)

    @property
    def secret_url(self) -> str:
        """The URL with its password, for child processes (through their environment)."""
        return with_secrets(self.url)

    @contextlib.contextmanager
    def lock(self, name: str, silence_seconds: float = LOCK_SECONDS) -> Iterator[Lock | None]:
        """Hold the advisory lock of ``name`` for one transaction; None if another holds it.

        A transaction's lock works behind a connection pooler, and ends with its connection. The
        server also ends it when the holder, frozen or cut off, is silent for ``silence_seconds``,
        so that others are not held up.
        """
        with mapped_errors(), self.engine.begin() as connection:
            is_held = _try_lock(connection, f"kdecay/{name}", silence_seconds)
            yield Lock(connection) if is_held else None

    @contextlib.contextmanager
    def hold_lock(self, name: str) -> Iterator[Lock]:
        """Hold the lock of ``name`` as :meth:`lock` does, and wait while another process holds it.

        Raises:
            StorageError: Another process has held it for ``RETRY_SECONDS``.
        """
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            with self.lock(name) as lock:
                if lock is not None:
                    yield lock
                    return
            if time.monotonic() > deadline:
                raise StorageError(
                    f"study {name!r}: another process has been changing it for "
                    f"{RETRY_SECONDS:g} s; try again later"
                )
            time.sleep(random.uniform(0.01, 0.05))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if "rdb" in vars(self):
            self.rdb.remove_session()
            self.rdb.engine.dispose()

    def _open_tables(self) -> None:
        """Make Optuna's tables if there are none, and refuse those of another version.

        The first process to come makes the tables. The others ask for its lock again and again
        instead of waiting for it in the database: behind a pooler, those who wait would use up the
        connections that the first one needs.
        """
        deadline = time.monotonic() + RETRY_SECONDS
        with self.engine.connect() as connection:
            while (version := schema.read_version(connection)) is None:
                if _try_lock(connection, _CREATION):
                    self._open_optuna(makes_tables=True).engine.dispose()
                elif time.monotonic() > deadline:
                    raise StorageUnavailable("storage: another process is still making the tables")
                else:
                    time.sleep(random.uniform(0.1, 0.3))
                connection.rollback()
        wrong = schema.mismatch(version)
        if wrong is not None:
            raise StorageError(f"storage {shown(self.url)}: {'; '.join(wrong)}")

    def _open_optuna(self, makes_tables: bool) -> RDBStorage:
        from optuna import logging, storages  # noqa: PLC0415 - a quarter of a second

        logging.set_verbosity(logging.ERROR)
        with mapped_errors(self.url):
            return storages.RDBStorage(
                f"{DRIVER}://",
                engine_kwargs={**_options(self.url), "pool_size": 1, "max_overflow": 1},
                skip_compatibility_check=True,  # schema.mismatch is the one rule
                skip_table_creation=not makes_tables,
            )


@dataclass(frozen=True)
class Lock:
    """An advisory lock that this process holds, unless it was silent for too long."""

    connection: sqlalchemy.Connection
    """The transaction that holds the lock: what is written in it is seen when the lock ends."""

    def confirm(self) -> None:
        """Raise :class:`StorageUnavailable` if the lock was lost in the meantime."""
        with mapped_errors():
            self.connection.execute(server.PING)


def _try_lock(
    connection: sqlalchemy.Connection, name: str, silence_seconds: float = LOCK_SECONDS
) -> bool:
    """Take an advisory lock for the rest of the transaction, unless another holds it."""
    values = {"name": name, "timeout": f"{silence_seconds:g}s"}
    return bool(connection.scalar(server.TRY_LOCK, values))


def make_engine(url: URL, **options: Any) -> sqlalchemy.Engine:
    """Return an engine that connects as libpq does by the parameters of ``url``.

    SQLAlchemy itself does not read all that libpq accepts, and shows URLs in its messages.
    """
    return sqlalchemy.create_engine(f"{DRIVER}://", **_options(url), **options)


def _options(url: URL) -> dict[str, Any]:
    return {"pool_pre_ping": True, "connect_args": _CONNECT | parameters_of(url)}


def probe_engine(url: URL) -> sqlalchemy.Engine:
    """An engine for a look at the database: it keeps no connections, and makes no tables."""
    return make_engine(url, poolclass=sqlalchemy.NullPool)


@contextlib.contextmanager
def mapped_errors(url: URL | None = None) -> Iterator[None]:
    """Turn what SQLAlchemy and Optuna raise for a database into :class:`StorageError`.

    Args:
        url: The database, if the message should name it.

    Raises:
        StorageUnavailable: The database cannot be reached; the same call may succeed later.
        StorageError: Any other error of the database.
    """
    try:
        yield
    except _errors() as error:
        # Optuna wraps errors of a session; the cause is SQLAlchemy's.
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
        where = f"storage {shown(url)}: " if url is not None else "storage: "
        # The database's own words, without SQLAlchemy's frame around them.
        lines = str(getattr(cause, "orig", None) or cause).splitlines()
        line = next((line.strip() for line in lines if line.strip()), type(cause).__name__)
        kind = StorageUnavailable if _is_outage(cause) else StorageError
        raise kind(where + line) from error


def _errors() -> tuple[type[Exception], ...]:
    """The errors of a database; those of Optuna, which loads slowly, only if it is in use."""
    optuna = sys.modules.get("optuna.exceptions")
    return (SQLAlchemyError,) if optuna is None else (SQLAlchemyError, optuna.StorageInternalError)


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, sqlalchemy.exc.TimeoutError) or (
        isinstance(error, DBAPIError)
        and (error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError))
    )


def retried(function: Callable[P, T]) -> Callable[P, T]:
    """Repeat ``function`` while the database is unreachable, for up to ``RETRY_SECONDS``.

    Only for functions that may run twice: a connection may drop after the server has committed.
    """
    return retried_for(RETRY_SECONDS, function)


def retried_for(
    seconds: float, function: Callable[P, T], log: Callable[[str], None] = lambda text: None
) -> Callable[P, T]:
    """Repeat ``function`` while the database is unreachable, as :func:`retried` does.

    Args:
        seconds: For how long.
        function: May run twice. If its first argument is a :class:`Storage`, that storage is
            revived before each further attempt.
        log: Called with the message of the first failure.
    """

    @functools.wraps(function)
    def mapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with mapped_errors():
            return function(*args, **kwargs)

    @functools.wraps(function)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        def before_sleep(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                log(str(state.outcome.exception()))
            if args and isinstance(args[0], Storage):
                args[0].revive()

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageUnavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
            stop=tenacity.stop_after_delay(seconds),
            before_sleep=before_sleep,
            reraise=True,
        )
        return attempts(mapped, *args, **kwargs)

    return repeated
