"""Decoded images, kept as files in ``$KDECAY_HOME/cache``. The folder may be deleted any time."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from kdecay_search.paths import home
from kdecay_search.training.data.dataset import Images
from kdecay_search.training.data.locking import exclusive_lock

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder where decoded images are kept; it is created if it is missing."""
    folder = home() / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def cached(key: str, decode: Callable[[], Images]) -> Images:
    """Read images from the cache, or decode them and keep them for the next time.

    Of several processes that want the same images, one decodes and the others wait for it. If
    nothing can be kept (no space, no permission), images are decoded every time, with a warning.

    Args:
        key: Name of the images in the cache; it must change whenever the images do.
        decode: Makes the images.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(cache_folder() / f"{key}.lock"))
        except OSError as error:
            logger.warning("cannot lock the cache of decoded images: %s", error)
        images = _read(key)
        if images is None:
            images = decode()
            _write(key, images)
    return images


def _read(key: str) -> Images | None:
    """The images under ``key``; None if there is no file, or a damaged one after a power cut."""
    try:
        images: Images = np.load(cache_folder() / f"{key}.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images


def _write(key: str, images: Images) -> None:
    """Write under another name and rename, so that readers see the whole file or none."""
    try:
        folder = cache_folder()
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            try:
                np.save(file, images, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(folder / f"{key}.npy")
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        logger.warning("cannot keep decoded images, the next run decodes them again: %s", error)
