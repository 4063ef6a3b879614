"""The process of Postgres: its socket, its start and its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kdecay_search.paths import SOCKET_BYTES, socket_parents, takes_sockets
from kdecay_search.storage.embedded.data import DataFolder
from kdecay_search.storage.embedded.problem import Problem, problem_of_postgres
from kdecay_search.storage.embedded.state import PORT, Owner

MAX_CONNECTIONS = 200
"""Two per process: enough for far more workers than one machine runs."""
RECOVERY_SECONDS = 300.0
"""How long a start may take, for the server reads its log again after a crash."""
STOP_SECONDS = 60.0
_SOCKET = f".s.PGSQL.{PORT}"
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]*")
"""Paths that URLs, libpq's lists of hosts and Postgres's lists of folders take as they are."""
_PREFIX = "kdecay-"
_PANIC = re.compile(r"\bPANIC:.*")
_READY = "database system is ready to accept connections"
_FULL = ("No space left on device", "Disk quota exceeded")
_NAME_BYTES = 60
_LAST_BYTES = 1 << 16


@dataclass(frozen=True)
class SocketFolder:
    """Where the server's socket is: a folder that only the server's user and ours can enter."""

    path: Path
    descriptor: int
    is_made: bool
    """Whether it was made for the socket alone."""


def socket_folder(data: DataFolder) -> SocketFolder:
    """Return the data folder, or make a folder elsewhere if its path does not suit a socket.

    Raises:
        Problem: There is no place for a socket.
    """
    closed = not os.fstat(data.descriptor).st_mode & 0o077
    if closed and _suits(data.path) and takes_sockets(data.path):
        return SocketFolder(data.path, data.descriptor, is_made=False)
    for parent in socket_parents():
        if not _suits(parent / f"{_PREFIX}12345678"):
            continue
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            data.user.give(descriptor)
            if takes_sockets(made):
                return SocketFolder(made, descriptor, is_made=True)
            os.close(descriptor)
            made.rmdir()
    raise Problem(
        f"does not start: there is no place for its socket, neither {data.path} nor in /tmp",
        f"set KDECAY_HOME to a path of at most {SOCKET_BYTES - len(_SOCKET) - 10} plain letters",
    )


def _suits(folder: Path) -> bool:
    path = str(folder / _SOCKET)
    return len(os.fsencode(path)) <= SOCKET_BYTES and bool(_PLAIN.fullmatch(path))


def remove_sockets(owner: Owner) -> None:
    """Remove the folder that was made for the socket of a server that is dead."""
    if not (owner.made_socket_folder and owner.place.is_here() and owner.is_safe()):
        return
    with contextlib.suppress(OSError):
        for name in (_SOCKET, f"{_SOCKET}.lock"):
            Path(owner.socket_folder, name).unlink(missing_ok=True)
        Path(owner.socket_folder).rmdir()


def start(data: DataFolder, sockets: SocketFolder) -> subprocess.Popen[bytes]:
    """Start Postgres and wait until it accepts connections.

    All its processes inherit the data folder's lock, and keep it as long as any of them lives.
    When this process is killed, Postgres ends in order.

    Raises:
        Problem: It does not start.
    """
    user = data.user
    for name in (_SOCKET, f"{_SOCKET}.lock"):  # left by a server that was killed
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=sockets.descriptor)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": user.path(sockets.path, sockets.descriptor),
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "cluster_name": str(data.path)[-_NAME_BYTES:],  # what ps shows
        "max_connections": str(MAX_CONNECTIONS),
        "timezone": "UTC",
        "lc_messages": "C",
        "dynamic_shared_memory_type": "mmap",  # /dev/shm may be missing, small, or swept at logout
        "logging_collector": "off",
        "log_destination": "stderr",
        "hba_file": f"{data.name_for_server}/pg_hba.conf",
        "ident_file": f"{data.name_for_server}/pg_ident.conf",
    }
    command = [data.program("postgres"), "-D", data.name_for_server]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    log = data.new_log()
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **user.options((*data.inherited, sockets.descriptor), signal.SIGINT),
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not _is_ready(data, server.pid):
        if server.poll() is not None:
            lines = (data.read("log") or "").splitlines()
            raise problem_of_postgres(lines, data.path, data.log)
        if time.monotonic() > deadline:
            stop(server)
            raise Problem(
                f"does not start: it was not ready within {RECOVERY_SECONDS:g} s", f"see {data.log}"
            )
        time.sleep(0.01)
    return server


def _is_ready(data: DataFolder, pid: int) -> bool:
    lines = (data.read("postmaster.pid") or "").splitlines()
    return lines[:1] == [str(pid)] and lines[-1].strip() == "ready"


def panic(data: DataFolder) -> str | None:
    """Return the PANIC that ended the last server; None if there was none.

    A full disk does not count: the data is whole, and the server goes on when there is room.
    """
    text = (data.read("log", _LAST_BYTES) or "").rpartition(_READY)[2]
    panics = [str(said) for said in _PANIC.findall(text)]
    return next((said for said in panics if not any(word in said for word in _FULL)), None)


def stop(server: subprocess.Popen[bytes]) -> bool:
    """Stop our Postgres: connections are closed, and everything is written down.

    It is our child, so that its id cannot have become another process's. Return whether it ended
    in order.
    """
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0)):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(seconds) == 0
    return False
