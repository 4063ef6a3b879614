"""Fetching a data set's archive: one process at a time, whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO

from torchvision.datasets.utils import check_integrity

_log = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""A server that sends nothing for so long is given up; torchvision would wait for ever."""
CHUNK_BYTES = 1 << 18
MEGABYTE = 1_000_000


def fetch(url: str, path: Path, md5: str) -> None:
    """Download ``url`` to ``path``, telling the log after every tenth. Raises :class:`OSError`."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            _copy(url, part, path.name)
            part.flush()
            if not check_integrity(part.name, md5):
                raise OSError(f"what {url} sends is damaged: its MD5 sum is not {md5}")
            os.chmod(part.name, 0o644)  # temporary files are their user's alone
            Path(part.name).replace(path)
        except HTTPException as error:
            raise OSError(f"{url}: {type(error).__name__}") from None
        finally:
            Path(part.name).unlink(missing_ok=True)


def _copy(url: str, part: IO[bytes], name: str) -> None:
    with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as response:
        total = response.length
        size = f"{total / MEGABYTE:.0f} MB" if total else "an unknown size"
        _log.info("downloading %s (%s) from %s", name, size, url)
        done = tenths = 0
        while chunk := response.read(CHUNK_BYTES):
            part.write(chunk)
            done += len(chunk)
            if total and 10 * done // total > tenths:
                tenths = 10 * done // total
                _log.info("downloading %s: %d %%", name, 10 * tenths)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keep others away that share ``lock``'s folder, on this machine and, where the file system
    can, on others. Without locks, several may do the same work. Raises :class:`OSError` where the
    file cannot be made."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that holds %s", lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            _log.warning("cannot lock %s: %s", lock, error)
        yield
