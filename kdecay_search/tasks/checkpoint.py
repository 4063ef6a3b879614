"""One run's state on disk, kept so that whatever dies, the old state or the new one is whole.

A file is a header (magic, fingerprint, digest) and a payload that this module does not look into.
It is written beside its place, synced, and renamed into it; what a killed writer left beside it
goes when the run is taken up again, or ends. The fingerprint says which run the
state belongs to (:meth:`kdecay_search.study.spec.StudySpec.fingerprint`), the digest whether every bit
of it came back. A file that fails either test is set aside, and the run starts over.
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
DIGEST_BYTES = 32
_HEADER_BYTES = len(MAGIC) + 2 * DIGEST_BYTES


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the checkpoints of all studies lie; shared by all workers of a cluster."""

    root: Path

    def of_study(self, spec: StudySpec) -> Path:
        """The study's own folder: studies of one name that train differently have two."""
        return self.root / f"{spec.name}-{spec.fingerprint().hex()[:12]}"

    def remove_study(self, spec: StudySpec) -> None:
        """Remove what is left of a study that has ended."""
        shutil.rmtree(self.of_study(spec), ignore_errors=True)


class Checkpoint:
    """The file of one run (stage, candidate, seed), whichever trial serves it."""

    def __init__(
        self,
        folder: Path,
        key: RunKey,
        fingerprint: bytes,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / f"stage{key.stage}-candidate{key.candidate}-seed{key.seed}.ckpt"
        self._fingerprint = fingerprint
        self._every_seconds = every_seconds
        self._clock = clock
        self._written = clock()
        self._warned = False

    @property
    def folder(self) -> Path:
        """For whatever else the run's own code keeps; nobody else's, and made by whoever wants it.
        It bears the fingerprint, since files in it are not checked."""
        return self.path.with_name(f"{self.path.stem}-{self._fingerprint.hex()[:12]}")

    @property
    def is_due(self) -> bool:
        """Whether the last one is ``every_seconds`` old."""
        return self._clock() - self._written >= self._every_seconds

    def write(self, payload: bytes) -> None:
        """Replace the file by ``payload``. What goes wrong is a warning, the first time: training
        goes on, and the file stays as it was."""
        self._written = self._clock()
        temporary = self.path.with_name(f"{self._beside}{socket.gethostname()}-{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(temporary, self._header(payload), payload)
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._warn(f"no checkpoint can be written, training goes on without: {error}")

    def read(self) -> bytes | None:
        """The payload, if a whole one of this very run is there."""
        self._clear()
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
        """Rename the file, so that the run starts over and somebody may look at it."""
        aside = self.path.with_suffix(".set-aside")
        try:
            self.path.replace(aside)
        except OSError:
            aside = self.path
        logger.warning("the checkpoint %s; the run starts over (%s)", reason, aside)

    def remove(self) -> None:
        """The run has ended."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _beside(self) -> str:
        """How the names of files begin that are being written."""
        return f".{self.path.name}."

    def _clear(self) -> None:
        """Remove what writers left that were killed: the run has one holder, and this is it."""
        with contextlib.suppress(OSError):
            for file in self.path.parent.iterdir():
                if file.name.startswith(self._beside):
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
    """Make the rename itself last; not every network file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
