"""A small disk that can be filled: a file system in memory, which only root can mount."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK = bytes(1 << 16)


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk."""

    path: Path
    """Where it is mounted."""

    @property
    def _filling(self) -> Path:
        return self.path / "filling"

    def fill(self) -> None:
        """Write until there is no space left."""
        with self._filling.open("ab", buffering=0) as file:
            for size in (len(BLOCK), 1):
                try:
                    while file.write(BLOCK[:size]):
                        continue
                except OSError:
                    continue

    def empty(self) -> None:
        """Remove what :meth:`fill` has written."""
        self._filling.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk at the folder ``path`` for the length of a ``with`` block."""
    _mount(path, megabytes)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)


@functools.cache
def unavailable_reason() -> str | None:
    """The reason why no small disk can be mounted here; None if one can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root can mount one"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 1):
                return None
        except subprocess.CalledProcessError as error:
            return str(error.stderr.decode().strip())


def _mount(path: Path, megabytes: int) -> None:
    options = f"size={megabytes}m,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "kdecay-chaos", str(path)]
    subprocess.run(command, check=True, capture_output=True)
