"""``KDECAY_HOME/postgres.state``: who uses the embedded server, and where it is.

The folder belongs to the user who runs the commands, and nobody else can change it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdecay_search.storage.embedded.locks import open_lock_file, wait_for_lock
from kdecay_search.storage.embedded.problem import ELSEWHERE, Problem
from kdecay_search.storage.embedded.users import user_name

FOLDER = "postgres.state"
PORT = 5432
"""The number in the socket's name: the server listens at no network address."""


@dataclass(frozen=True)
class Place:
    """Where a process runs: a process id means nothing elsewhere, nor may a socket's path."""

    host: str
    boot: str
    """The id of the kernel's start; hosts may have one name, or change it."""
    namespace: str
    """The namespace of process ids; each container has one of its own."""

    @classmethod
    def here(cls) -> Place:
        boot = namespace = ""
        with contextlib.suppress(OSError):  # there is no /proc
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = os.readlink("/proc/self/ns/pid")
        return cls(socket.gethostname(), boot, namespace)

    def is_here(self) -> bool:
        here = Place.here()
        return (self.boot, self.namespace) == (here.boot, here.namespace)

    def __str__(self) -> str:
        if self.boot == Place.here().boot:
            return f"in another container of this machine (host name {self.host})"
        return f"on host {self.host}"


@dataclass(frozen=True)
class Owner:
    """The server that was started last, unless it has ended in order."""

    place: Place = field(default_factory=Place.here)
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %z"))
    socket_folder: str = ""
    """Where its socket is; empty while it starts."""
    made_socket_folder: bool = False
    """Whether that folder was made for the socket alone."""
    server_uid: int = -1

    def is_reachable(self) -> bool:
        """Whether it takes connections from here, through a folder that others cannot enter."""
        if not self.place.is_here() or not self.is_safe():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(f"{self.socket_folder}/.s.PGSQL.{PORT}")
            except OSError:
                return False
        return True

    def is_safe(self) -> bool:
        """Whether the socket's folder is the server's, and closed to others."""
        try:
            status = os.lstat(self.socket_folder)
        except OSError:
            return False
        is_ours = status.st_uid in (self.server_uid, os.geteuid())
        return stat.S_ISDIR(status.st_mode) and is_ours and not status.st_mode & 0o077


class State:
    """The open folder.

    Raises:
        Problem: It belongs to somebody else, or others can write to it.
        OSError: It cannot be made or opened.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FOLDER
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._folder = os.open(self.path, flags)
            status = os.fstat(self._folder)
        except PermissionError:
            status = os.lstat(self.path)
            if status.st_uid == os.geteuid():
                raise
        if status.st_uid != os.geteuid():
            owner, me = user_name(status.st_uid), user_name(os.geteuid())
            raise Problem(
                f"belongs to user {owner}, and this is user {me}",
                f"run the command as {owner}, or {ELSEWHERE}",
            )
        if status.st_mode & 0o022:
            raise Problem(f"is not safe: others can write to {self.path}", f"chmod 700 {self.path}")

    def close(self) -> None:
        os.close(self._folder)

    def users(self) -> int:
        """Open the file that each user of the server holds a shared lock on."""
        return open_lock_file("users.lock", self._folder)

    @contextlib.contextmanager
    def starting(self, seconds: float) -> Iterator[None]:
        """Be the only one that starts the server, after up to ``seconds``."""
        descriptor = open_lock_file("starting.lock", self._folder)
        try:
            if not wait_for_lock(descriptor, fcntl.LOCK_EX, seconds):
                raise Problem(
                    f"is being started by another command since {seconds:g} s",
                    "try again later",
                    passing=True,
                )
            yield
        finally:
            os.close(descriptor)

    def owner(self) -> Owner | None:
        """Return the server that was started last; None if it has ended in order."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open("owner.json", flags, dir_fd=self._folder), encoding="utf-8") as file:
                values = json.load(file)
            return Owner(**values | {"place": Place(**values["place"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):  # it was being written when the machine stopped
            return Owner(Place("an unknown host", "", ""), "an unknown time")

    def claim(self, owner: Owner) -> None:
        """Write down that ``owner`` starts; only one can, even where locks are not seen."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            new = os.open("owner.json", flags, 0o600, dir_fd=self._folder)
        except FileExistsError:
            raise Problem("is being started by another host", "try again later", True) from None
        _write(new, owner)

    def set_owner(self, owner: Owner) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        new = os.open("owner.json.new", flags, 0o600, dir_fd=self._folder)
        _write(new, owner)
        os.replace("owner.json.new", "owner.json", src_dir_fd=self._folder,
                   dst_dir_fd=self._folder)  # fmt: skip

    def clear_owner(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("owner.json", dir_fd=self._folder)


def _write(descriptor: int, owner: Owner) -> None:
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(owner), file)
        file.flush()
        os.fsync(file.fileno())
