"""Folders that only their owner can write to, and files in them that are opened through no link.

A root such as a shared scratch disk may be open to all users. Another user can make a folder there
before us, or a symbolic link, or exchange what lies there at any moment. So a folder is opened
once, without following a link; the open folder is checked; and everything in it is reached from
that descriptor and not by its path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

ASIDE = ".set-aside"
"""Part of the names of files and folders that are kept for people to look at, and not used."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class NotPrivate(PermissionError):
    """A folder or a file belongs to another user, or others can write to it, or it is a link."""


@contextmanager
def private_folder(path: Path, make: bool = False) -> Iterator[int]:
    """Open a folder that only this user can write to, for the length of a ``with`` block.

    A folder of this user's that others can write to is set aside, with a warning: what they may
    have put there must not be read.

    Args:
        path: The folder. Only its own name must not be a link; its parents may be anybody's.
        make: Whether to make it if it is missing, closed to other users.

    Yields:
        The descriptor of the folder, for ``dir_fd``.

    Raises:
        NotPrivate: It belongs to another user, or is a link.
        FileNotFoundError: It is missing, and ``make`` is False.
        OSError: It cannot be made or opened.
    """
    descriptor = _opened(path, make)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: Path, make: bool) -> int:
    if make:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        is_new = make and _was_made(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        except NotADirectoryError:
            if path.is_symlink():
                raise NotPrivate(f"{path} is a symbolic link") from None
            raise
        status = os.fstat(descriptor)
        if not others_may_write(status) and is_own(status):
            return descriptor
        os.close(descriptor)
        if is_new:
            text = "others can write to each new folder" if is_own(status) else "owners are changed"
            raise NotPrivate(f"{path} is on a file system where {text}")
        if not is_own(status):
            raise NotPrivate(f"{path} {owner_text(status)}")
        aside = path.with_name(f"{path.name}{ASIDE}-{secrets.token_hex(4)}")
        path.rename(aside)
        logger.warning("other users could write to %s: it is not used (moved to %s)", path, aside)
        if not make:
            raise FileNotFoundError(f"{path} was set aside")


def _was_made(path: Path) -> bool:
    """Make a folder that is closed to others; return False if there is something already."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def is_own(status: os.stat_result) -> bool:
    """Return whether this user owns a file."""
    return status.st_uid == os.geteuid()


def others_may_write(status: os.stat_result) -> bool:
    """Return whether users besides the owner may write to a file."""
    return bool(status.st_mode & _OTHERS_MAY_WRITE)


def owner_text(status: os.stat_result) -> str:
    """Return the words ``belongs to user NAME``."""
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return f"belongs to user {name}"


def read_file(name: str, folder: int) -> bytes:
    """Read a file of this user's, in a folder that :func:`private_folder` has opened.

    Raises:
        NotPrivate: Others may have written it, or it is no regular file.
        OSError: It is missing, is a link, or cannot be read.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _FLAGS, dir_fd=folder)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivate("is no regular file")
        if not is_own(status):
            raise NotPrivate(owner_text(status))
        if others_may_write(status):
            raise NotPrivate("can be written by other users")
        return file.read()


def write_file(name: str, folder: int, *parts: bytes) -> None:
    """Replace a file by these parts: whole or, if that fails, not at all.

    The parts are written to a file of another name, which begins with a dot and ``name``, synced,
    and renamed.

    Raises:
        OSError: It cannot be written.
    """
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
    descriptor = os.open(temporary, flags, mode=0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    with contextlib.suppress(OSError):  # where the file system supports it, the rename lasts
        os.fsync(folder)
