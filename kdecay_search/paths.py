"""The user's data folder (embedded database, logs, caches), temporary folders, and disks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdecay_search.errors import HomeError, KDecayError

SHARED = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p",
    "afs", "panfs", "wekafs", "virtiofs", "vboxsf", "orangefs", "pvfs2", "ocfs2", "gfs2",
    "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "fuse.juicefs", "fuse.moosefs",
    "fuse.beegfs",
})  # fmt: skip
"""Types of file systems that several machines can see."""
OBJECT_STORES = frozenset({
    "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.mount-s3",
})  # fmt: skip
"""Types of file systems that are shared, too, but have no atomic renames."""
SOCKET_BYTES = 103
"""The most bytes that the path of a Unix socket may have everywhere; on Linux it is 107."""
_REMEDY = "set KDECAY_HOME to a folder that this user can write to"


def home() -> Path:
    """Return ``KDECAY_HOME``, or else the platform's folder for user data; make it if need be.

    A folder that is made here is closed to other users.

    Raises:
        HomeError: There is no such folder, and it cannot be made.
    """
    configured = os.environ.get("KDECAY_HOME")
    try:
        if configured:
            folder = Path(configured).expanduser().resolve()
        else:
            import platformdirs  # noqa: PLC0415 - only where no folder is configured

            folder = platformdirs.user_data_path("kdecay-search")
            if not folder.is_absolute():
                raise RuntimeError(f"{folder} is not an absolute path")
    except (OSError, RuntimeError) as error:  # no such user, or links that form a loop
        where = f"KDECAY_HOME={configured}" if configured else "the user's data folder"
        raise HomeError(f"{where}: {error}; {_REMEDY}") from error
    return _made(folder)


def home_folder(*names: str) -> Path:
    """Return a folder in :func:`home`; make it if need be.

    Raises:
        HomeError: It cannot be made.
    """
    return _made(home().joinpath(*names))


def ensure_temporary_folder() -> None:
    """Make temporary files in :func:`home` if no other folder takes them.

    Under a read-only root there may be no writable ``/tmp``, and torch cannot be imported without
    a folder for temporary files. The variable ``TMPDIR`` passes the folder on to other processes.

    Raises:
        HomeError: The folder cannot be made there either.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = tempfile.tempdir = str(home_folder("tmp"))


def _made(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise HomeError(f"data folder {folder}: is not a folder; {_REMEDY}") from error
    except OSError as error:
        raise HomeError(f"data folder {folder}: {error.strerror}; {_REMEDY}") from error
    return folder


def temporary_folder() -> Path:
    """Return the folder for temporary files: ``TMPDIR``, or else one of the system's.

    Raises:
        KDecayError: ``TMPDIR`` names a folder that cannot be written to, or there is none at all.
            Python and other programs would differ in where they write then.
    """
    remedy = "set TMPDIR to a folder that this user can write to"
    configured = os.environ.get("TMPDIR")
    try:
        if configured:
            with tempfile.TemporaryFile(dir=configured):
                pass
        return Path(tempfile.gettempdir())
    except OSError as error:
        if configured:
            raise KDecayError(f"TMPDIR={configured}: {error.strerror}; {remedy}") from error
        raise KDecayError(f"there is no folder for temporary files; {remedy}") from error


def socket_parents() -> Iterator[Path]:
    """Yield folders in which a folder for a Unix socket can be made, such as ``/tmp``.

    Nobody else can rename or remove what this user makes there.
    """
    temporary = None
    with contextlib.suppress(FileNotFoundError):
        temporary = tempfile.gettempdir()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    for name in filter(None, (runtime, temporary, "/tmp", "/var/tmp", "/dev/shm")):
        parent = Path(name)
        with contextlib.suppress(OSError):
            status = parent.lstat()
            is_ours = status.st_uid in (0, os.geteuid())
            is_kept = bool(status.st_mode & stat.S_ISVTX) or not status.st_mode & 0o022
            if stat.S_ISDIR(status.st_mode) and is_ours and is_kept:
                yield parent


def takes_sockets(folder: Path) -> bool:
    """Return whether a Unix socket can be made in ``folder``; some file systems cannot hold one."""
    probe = folder / ".s.kdecay"
    with socket.socket(socket.AF_UNIX) as attempt:
        try:
            attempt.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True


def is_shared(folder: Path) -> bool:
    """Whether other machines may see what is in ``folder``."""
    kind, _ = mount_of(folder)
    return kind in SHARED or kind.startswith("fuse.")


def mount_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> tuple[str, list[str]]:
    """Return the type and the mount options of the file system that holds ``folder``, or would.

    Args:
        folder: Need not exist.
        mounts: The kernel's table of mounts.
    """
    there = str(folder.resolve())
    longest, kind, options = -1, "an unknown file system", ""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return kind, []
    for line in lines:
        _, point, type_, flags, *_ = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)
        inside = point in ("/", there) or there.startswith(f"{point}/")
        if inside and len(point) >= longest:  # of two mounts at one point the later counts
            longest, kind, options = len(point), type_, flags
    return kind, options.split(",")
