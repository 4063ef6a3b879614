"""Postgres's data folder: made whole or not at all, and closed to all but its user."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from kdecay_search.storage.embedded.locks import open_lock_file, wait_for_lock
from kdecay_search.storage.embedded.problem import problem_of_postgres
from kdecay_search.storage.embedded.users import NEWEST, ServerUser, own_name, programs, server_user

ROLE = "kdecay"
"""Whom commands connect as: the owner of the tables, and no superuser."""
DATABASE = "postgres"
SUPERUSER = "postgres"
LOCK = "kdecay.lock"
"""The file in the data folder that all processes of its server hold a lock on."""
ORPHAN_SECONDS = 3.0
"""How long the last processes of a killed initdb are waited for."""
HEADER = "# Written by kdecay-search whenever it starts this server; changes are lost.\n"
ACCESS = f"{HEADER}local all all peer map=kdecay\n"
"""The kernel says which user of the machine connects; the map names the only one who may."""
SET_UP = f"""\
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') \
THEN CREATE ROLE {ROLE} LOGIN; END IF; END $$
ALTER DATABASE {DATABASE} OWNER TO {ROLE}
REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC
"""
"""A statement a line, as Postgres reads them in single-user mode; they can be repeated."""


class DataFolder:
    """An open data folder.

    Args:
        path: Where it is, without symbolic links.
        wheel: The installed package that brings Postgres.
        user: Whom Postgres runs as.
        descriptor: The open folder.
    """

    def __init__(self, path: Path, wheel: Path, user: ServerUser, descriptor: int) -> None:
        self.path = path
        self.user = user
        self.descriptor = descriptor
        self._wheel = wheel
        self._programs: Path | None = None
        self._inherited = [descriptor]

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def name_for_server(self) -> str:
        """A path by which Postgres reaches the folder, if it inherits the descriptor."""
        return self.user.path(self.path, self.descriptor)

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that every process of Postgres inherits."""
        return tuple(self._inherited)

    @property
    def is_of_this_version(self) -> bool:
        """Whether this version or a later one has set it up."""
        return (self.read("pg_hba.conf") or "").startswith(HEADER)

    def program(self, name: str) -> str:
        """Return the program of the Postgres that made this folder."""
        if self._programs is None:
            version = (self.read("PG_VERSION") or "").strip() or NEWEST
            self._programs = programs(self._wheel, version, self.user)
        return str(self._programs / name)

    def open_lock(self) -> int:
        """Open the lock of the server that uses this folder; all processes inherit it."""
        lock = open_lock_file(LOCK, self.descriptor)
        self.user.give(lock)
        self._inherited.append(lock)
        return lock

    def close_to_others(self) -> None:
        """Let nobody connect but the user who runs this process."""
        name = own_name().replace('"', '""')
        self.write("pg_ident.conf", f'{HEADER}kdecay "{name}" all\n')
        self.write("pg_hba.conf", ACCESS)

    def execute(self, script: str, database: str) -> None:
        """Run SQL as the superuser, in a process that nobody can connect to."""
        self.run(
            "postgres", "--single", "-D", self.name_for_server, "-c", "exit_on_error=on",
            "-c", "lc_messages=C", database, text=script,
        )  # fmt: skip

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run one of Postgres's programs to its end, which comes with this process's at the latest.

        Raises:
            Problem: It failed.
        """
        done = subprocess.run(
            [self.program(program), *arguments],
            input=text.encode(),
            capture_output=True,
            check=False,
            **self.user.options(self.inherited, signal.SIGKILL),
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise problem_of_postgres(
                lines or [f"{program} ended with exit code {done.returncode}"], self.path
            )

    def read(self, name: str, last_bytes: int = 0) -> str | None:
        """Return the content of one of its files, or the end of it; None if there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            if last_bytes:
                file.seek(max(0, os.fstat(descriptor).st_size - last_bytes))
            return file.read().decode(errors="replace")

    def write(self, name: str, text: str) -> None:
        """Replace one of its files, which is whole or as before at any time."""
        if self.read(name) == text:
            return
        new = f"{name}.{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600, dir_fd=self.descriptor)
        with open(descriptor, "w", encoding="utf-8") as file:
            self.user.give(descriptor)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def new_log(self) -> int:
        """Open an empty log; the one before is kept beside it."""
        with contextlib.suppress(FileNotFoundError):
            os.replace("log", "log.1", src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open("log", flags, 0o600, dir_fd=self.descriptor)


def open_folder(home: Path, wheel: Path) -> DataFolder | None:
    """Open the data folder of ``KDECAY_HOME``; None if there is none, or an empty one.

    Raises:
        Problem: It belongs to somebody else.
    """
    path = _path(home)
    try:
        status = path.stat()
        with contextlib.suppress(PermissionError):
            if path.is_dir() and not os.listdir(path):
                return None
    except FileNotFoundError:
        return None
    user = server_user(home, status)
    return DataFolder(path, wheel, user, os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def make_folder(home: Path, wheel: Path) -> DataFolder:
    """Make the data folder beside its place, and rename it when it is whole.

    Raises:
        Problem: It cannot be made.
    """
    path = _path(home)
    user = server_user(home, None)
    new = Path(f"{path}.new-{os.getpid()}-{secrets.token_hex(4)}")
    new.mkdir(mode=0o700)
    try:
        folder = _filled(DataFolder(new, wheel, user, os.open(new, os.O_RDONLY | os.O_DIRECTORY)))
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    folder.path = path
    return folder


def _filled(folder: DataFolder) -> DataFolder:
    """Make the database in a new folder, and write it to the disk."""
    _hold(folder.descriptor)
    folder.user.give(folder.descriptor)
    place = folder.name_for_server
    folder.run(
        "initdb", "--pgdata", place, "--username", SUPERUSER, "--auth=peer", "--encoding=UTF8",
        "--locale=C", "--no-sync", "--no-instructions",
    )  # fmt: skip
    folder.execute(SET_UP, "template1")
    folder.close_to_others()
    folder.run("initdb", "--sync-only", "--sync-method=syncfs", "--pgdata", place)
    return folder


def remove_halves(home: Path) -> None:
    """Remove what interrupted attempts to make the folder have left.

    What their processes still write to is left for later; the caller alone makes folders.
    """
    for half in glob.glob(f"{glob.escape(str(_path(home)))}.new-*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(half, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _hold(descriptor, ORPHAN_SECONDS):
                    shutil.rmtree(half)
            finally:
                os.close(descriptor)


def _path(home: Path) -> Path:
    return Path(os.path.realpath(home / "postgres"))  # it may be a link to a larger disk


def _hold(folder: int, seconds: float = 0.0) -> bool:
    """Lock a folder for this process and those that inherit its descriptor."""
    try:
        return wait_for_lock(folder, fcntl.LOCK_EX, seconds)
    except OSError:
        return True  # network file systems do not lock folders
