"""Locks on files, which the kernel releases however their holders end.

A lock (``flock``) is seen by all processes that reach the file: in other namespaces, in other
containers, and on other hosts if the file system passes locks on. A process that is started with
the descriptor of a locked file holds the lock, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path

from kdecay_search.paths import OBJECT_STORES, mount_of
from kdecay_search.storage.embedded.problem import LOCAL, Problem

LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"})
"""Options of network file systems that keep locks from other hosts."""
NO_LOCKS = OBJECT_STORES | {"fuse.sshfs", "fuse.curlftpfs", "fuse.davfs2", "davfs"}
"""File systems that other hosts may use, and that keep all locks from them."""
UNSURE_LOCKS = frozenset({"9p", "virtiofs", "vboxsf", "beegfs", "cifs", "smb3", "afs"})
"""File systems that other hosts may use, and that may or may not pass locks on."""
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_PAUSE_SECONDS = 0.02


def open_lock_file(name: str, folder: int) -> int:
    """Open, and make if need be, the regular file ``name`` in the folder with this descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Problem(f"cannot be locked: {name} is not a regular file", "remove it")
    return descriptor


def try_lock(descriptor: int, operation: int) -> bool:
    """Take a lock (``fcntl.LOCK_SH`` or ``LOCK_EX``) if nobody else's prevents that.

    Raises:
        Problem: The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise Problem(
            f"cannot be kept there: its file system does not lock files ({error.strerror})", LOCAL
        ) from error
    return True


def wait_for_lock(descriptor: int, operation: int, seconds: float) -> bool:
    """Take a lock, and wait up to ``seconds`` for it; return whether it was taken."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor, operation):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def check_file_system(folder: Path) -> None:
    """Raise :class:`Problem` if other hosts may use ``folder`` and would not see its locks."""
    kind, options = mount_of(folder)
    hiding = LOCAL_LOCKS.intersection(options)
    if kind in NO_LOCKS or hiding:
        why = f"is mounted with {min(hiding)}" if hiding else f"is of type {kind}"
        raise Problem(
            f"cannot be kept there: its file system {why}, so other hosts do not see its locks",
            LOCAL,
        )


def is_unsure(folder: Path) -> bool:
    """Whether hosts that share ``folder`` may not see each other's locks."""
    kind, _ = mount_of(folder)
    return kind in UNSURE_LOCKS or kind.startswith("fuse.")
