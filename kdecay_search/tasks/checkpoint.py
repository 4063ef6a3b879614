"""A run's state on disk, written so that a crash at any moment leaves one whole state.

A file is a header (magic, fingerprint, digest) and an opaque payload. It is written under a
temporary name, synced, and renamed; temporary files of a killed writer are removed when the run is
resumed or ends. The fingerprint says which run the state belongs to
(:meth:`kdecay_search.study.spec.StudySpec.fingerprint`), the digest whether every bit of it was
read back. A file that fails either test is set aside, and the run starts over.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey

logger = logging.getLogger(__name__)

MAGIC = b"KDECAY01"
"""First bytes of every checkpoint; the digits are the format's version."""
DIGEST_BYTES = 32
"""Length of the fingerprint, and of the digest."""
_HEADER_BYTES = len(MAGIC) + 2 * DIGEST_BYTES


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder that holds the checkpoints of all studies."""

    root: Path
    """Path of the folder; all workers of a study should see the same one."""

    def of_study(self, spec: StudySpec) -> Path:
        """The study's own folder. Studies of the same name that train differently have two."""
        return self.root / f"{spec.name}-{spec.fingerprint().hex()[:12]}"

    def studies(self) -> set[str]:
        """Names of the studies that the folder holds checkpoints of."""
        try:
            return {path.name.rpartition("-")[0] for path in self.root.iterdir()} - {""}
        except OSError:
            return set()

    def remove_study(self, spec: StudySpec) -> None:
        """Remove the folder of a study that has ended."""
        shutil.rmtree(self.of_study(spec), ignore_errors=True)


class Checkpoint:
    """The checkpoint of one run (stage, candidate, seed), shared by all trials of the run.

    Args:
        folder: The study's folder (:meth:`CheckpointFolder.of_study`).
        key: The run.
        fingerprint: 32 bytes that differ for runs that train differently.
        every_seconds: How often a checkpoint is due.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        key: RunKey,
        fingerprint: bytes,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / f"stage{key.stage}-candidate{key.candidate}-seed{key.seed}.ckpt"
        """Path of the file."""
        self._fingerprint = fingerprint
        self._every_seconds = every_seconds
        self._clock = clock
        self._written = clock()
        self._warned = False

    @property
    def folder(self) -> Path:
        """A folder for other files that the run's own code keeps; the code creates it if needed.

        Its name contains the fingerprint, since nothing checks the files in it.
        """
        return self.path.with_name(f"{self.path.stem}-{self._fingerprint.hex()[:12]}")

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is at least ``every_seconds`` old."""
        return self._clock() - self._written >= self._every_seconds

    def write(self, payload: bytes) -> None:
        """Replace the file's content by ``payload``.

        If that fails, the old file stays and training continues; the first failure is logged.
        """
        self._written = self._clock()
        temporary = self.path.with_name(f"{self._temporary}{socket.gethostname()}-{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(temporary, self._header(payload), payload)
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._warn(f"no checkpoint can be written, training continues without: {error}")

    def read(self) -> bytes | None:
        """Return the payload; None if there is no intact checkpoint of this run.

        A damaged file, or one of another run, is set aside.
        """
        self._remove_temporary_files()
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"the checkpoint cannot be read, the run starts over: {error}")
            return None
        payload = content[_HEADER_BYTES:]
        if content[:_HEADER_BYTES] == self._header(payload):
            return payload
        foreign = content[len(MAGIC) :][:DIGEST_BYTES] != self._fingerprint
        self.set_aside("belongs to another run" if foreign else "is damaged")
        return None

    def set_aside(self, reason: str) -> None:
        """Rename the file and log why: the run starts over, and the file can be examined."""
        aside = self.path.with_suffix(".set-aside")
        try:
            self.path.replace(aside)
        except OSError:
            aside = self.path
        logger.warning("the checkpoint %s; the run starts over (%s)", reason, aside)

    def remove(self) -> None:
        """Remove everything that was kept for the run, which has ended."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._remove_temporary_files()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _temporary(self) -> str:
        """The prefix of the names of temporary files."""
        return f".{self.path.name}."

    def _remove_temporary_files(self) -> None:
        """Remove the temporary files of killed writers: this process alone holds the run."""
        with contextlib.suppress(OSError):
            for file in self.path.parent.iterdir():
                if file.name.startswith(self._temporary):
                    file.unlink()

    def _header(self, payload: bytes) -> bytes:
        digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES, key=self._fingerprint)
        return MAGIC + self._fingerprint + digest.digest()

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("%s", text)
        self._warned = True


def _write_synced(path: Path, *parts: bytes) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable, if the file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
