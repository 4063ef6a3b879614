"""Decoded images, kept as files under ``$KDECAY_HOME/cache``; it may be deleted any time."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kdecay_search.paths import home
from kdecay_search.training.data.source import Images

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where decoded images are kept; created if it is missing."""
    folder = home() / "cache"
    folder.mkdir(exist_ok=True)
    return folder


def through_cache(key: str, decode: Callable[[], Images]) -> Images:
    """The images kept as ``key``, or else those that ``decode`` makes, kept for the next time.

    Of several processes that want the same images one decodes and the others wait for it. Where
    nothing can be kept (no room, no permission) images are decoded every time, with a warning.
    """
    with locked(key):
        images = _read(key)
        if images is None:
            images = decode()
            _write(key, images)
    return images


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Keep other processes of this user and machine away from ``key``, where that is possible."""
    try:
        file = (cache_folder() / f"{key}.lock").open("w")
    except OSError as error:
        _log.warning("cannot lock the cache of decoded images: %s", error)
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(key: str) -> Images | None:
    """None if there is no such file, or a damaged one (a machine that lost power leaves those)."""
    try:
        images: Images = np.load(cache_folder() / f"{key}.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images


def _write(key: str, images: Images) -> None:
    """Written under another name and renamed: a reader sees all of it or nothing."""
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
        _log.warning("cannot keep decoded images, the next run decodes them again: %s", error)
