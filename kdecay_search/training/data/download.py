"""Downloads a data set's archive: either whole and checked, or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO

from torchvision.datasets.utils import check_integrity

logger = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""Seconds without data after which a server is given up; torchvision would wait for ever."""
CHUNK_BYTES = 1 << 18
MEGABYTE = 1_000_000


def fetch(url: str, path: Path, md5: str) -> None:
    """Download ``url`` to ``path`` and log the progress after every tenth.

    The file is written under another name and renamed when its MD5 sum is right.

    Raises:
        OSError: The download failed or is damaged, or the file cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            _copy(url, part, path.name)
            part.flush()
            if not check_integrity(part.name, md5):
                raise OSError(f"what {url} sends is damaged: its MD5 sum is not {md5}")
            os.chmod(part.name, 0o644)  # temporary files can only be read by their owner
            Path(part.name).replace(path)
        except HTTPException as error:
            raise OSError(f"{url}: {type(error).__name__}") from None
        finally:
            Path(part.name).unlink(missing_ok=True)


def _copy(url: str, part: IO[bytes], name: str) -> None:
    with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as response:
        total = response.length
        size = f"{total / MEGABYTE:.0f} MB" if total else "an unknown size"
        logger.info("downloading %s (%s) from %s", name, size, url)
        done = tenths = 0
        while chunk := response.read(CHUNK_BYTES):
            part.write(chunk)
            done += len(chunk)
            if total and 10 * done // total > tenths:
                tenths = 10 * done // total
                logger.info("downloading %s: %d %%", name, 10 * tenths)
