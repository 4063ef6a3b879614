"""Locks between processes, so that work on files is done once."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock file inside the ``with`` block; wait for another process that holds it.

    It excludes processes on this machine and, where the file system supports that, on others. Where
    it supports no locks there is a warning, and several processes may do the same work.

    Raises:
        OSError: The file cannot be made, or is a link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # whatever is there, it stays
    with open(os.open(path, flags, 0o666), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("cannot lock %s: %s", path, error)
        yield
