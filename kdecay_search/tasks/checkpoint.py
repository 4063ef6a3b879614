"""A run's state on disk, written so that a crash at any moment leaves one whole state.

A file is a header (magic, fingerprint, digest) and an opaque payload. It is written under a
temporary name, synced, and renamed; temporary files of a killed writer are removed when the run is
resumed or ends. The fingerprint says which run the state belongs to
(:meth:`kdecay_search.study.spec.StudySpec.fingerprint`), the digest whether every bit of it was
read back. A file that fails either test is set aside, and the run starts over.

Neither of them keeps a forger away. A study's folder is therefore closed to other users, and one
that others could write to is not used (:mod:`kdecay_search.tasks.private_folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdecay_search.errors import KDecayError
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.private_folder import (
    ASIDE,
    NotPrivate,
    is_own,
    private_folder,
    read_file,
    write_file,
)

logger = logging.getLogger(__name__)

MAGIC = b"KDECAY01"
"""First bytes of every checkpoint; the digits are the format's version."""
DIGEST_BYTES = 32
"""Length of the fingerprint, and of the digest."""
_HEADER_BYTES = len(MAGIC) + 2 * DIGEST_BYTES
_KEY_DIGITS = 12
"""Length of what the name of a study's folder ends with."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder that holds the checkpoints of all studies."""

    root: Path
    """Path of the folder; all workers of a study should see the same one. Other users may write to
    it, but not to what is in it."""

    def of_study(self, spec: StudySpec, launch: str | None) -> Path:
        """The study's own folder. Each launch of a name has another.

        A study that is deleted and launched again begins anew, for its training code may have
        changed. A study without a launch id, made by version 0.1.0, is told apart from others of
        its name by what it trains.
        """
        key = spec.fingerprint()
        if launch is not None:
            key = hashlib.blake2b(str(launch).encode(), key=key).digest()
        return self.root / f"{spec.name}-{key.hex()[:_KEY_DIGITS]}"

    def of_name(self, name: str) -> list[Path]:
        """The folders of all launches of a name that are there, those of other users included."""
        pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{_KEY_DIGITS}}}")
        try:
            return sorted(path for path in self.root.iterdir() if pattern.fullmatch(path.name))
        except OSError:
            return []

    def require_private(self, spec: StudySpec, launch: str | None) -> None:
        """Make the study's own folder, closed to other users, if it is missing.

        Where that fails for another reason than other users, such as a full disk, the study can be
        trained without checkpoints.

        Raises:
            KDecayError: The folder belongs to another user, or is a link, or cannot be closed.
        """
        try:
            with private_folder(self.of_study(spec, launch), make=True):
                return
        except NotPrivate as error:
            raise KDecayError(
                f"checkpoints: {error}; what is read from there could run code as this user: "
                "give --checkpoints (or KDECAY_CHECKPOINTS) a folder of your own"
            ) from error
        except OSError:
            return

    def studies(self) -> set[str]:
        """Names of the studies that the folder holds checkpoints of this user's of."""
        try:
            own = [entry.name for entry in os.scandir(self.root) if _is_own_folder(entry)]
        except OSError:
            return set()
        return {name.partition(ASIDE)[0].rpartition("-")[0] for name in own} - {""}

    def remove_study(self, spec: StudySpec, launch: str | None) -> None:
        """Remove the folder of a study that has ended, or was deleted."""
        folder = self.of_study(spec, launch)
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.root):
                is_aside = entry.name.startswith(f"{folder.name}{ASIDE}-")
                if (entry.name == folder.name or is_aside) and _is_own_folder(entry):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_own_folder(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISDIR(status.st_mode) and is_own(status)


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
        self.has_failed = False
        """Whether the last attempt to write it failed."""

    @property
    def folder(self) -> Path:
        """The path of a folder for other files that the run's own code keeps.

        Its name contains the fingerprint, since nothing checks the files in it.
        """
        return self.path.with_name(f"{self.path.stem}-{self._fingerprint.hex()[:12]}")

    def make_folder(self) -> Path:
        """Make :attr:`folder`, closed to other users, if it is missing; return it.

        Raises:
            NotPrivate: The study's folder belongs to another user, or this one is a link.
            OSError: It cannot be made.
        """
        with private_folder(self.path.parent, make=True) as study:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder.name, mode=0o700, dir_fd=study)
            status = os.stat(self.folder.name, dir_fd=study, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise NotPrivate(f"{self.folder} is no folder")
        return self.folder

    @property
    def exists(self) -> bool:
        """Whether something has been kept for the run."""
        return self.path.exists()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is at least ``every_seconds`` old."""
        return self._clock() - self._written >= self._every_seconds

    def write(self, payload: bytes) -> None:
        """Replace the file's content by ``payload``.

        If that fails, the old file stays and training continues; the first failure is logged.
        """
        self._written = self._clock()
        try:
            with private_folder(self.path.parent, make=True) as study:
                write_file(self.path.name, study, self._header(payload), payload)
            self.has_failed = False
        except OSError as error:
            self.has_failed = True
            self._warn(f"no checkpoint can be written, training continues without: {error}")

    def read(self) -> bytes | None:
        """Return the payload; None if there is no intact checkpoint of this run.

        A damaged file, or one of another run, or one that others could write, is set aside.
        """
        try:
            with private_folder(self.path.parent) as study:
                self._remove_temporary_files(study)
                try:
                    content = read_file(self.path.name, study)
                except NotPrivate as error:
                    self.set_aside(str(error))
                    return None
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
        aside = self.path.with_suffix(ASIDE)
        try:
            with private_folder(self.path.parent) as study:
                os.replace(self.path.name, aside.name, src_dir_fd=study, dst_dir_fd=study)
        except OSError:
            aside = self.path
        logger.warning("the checkpoint %s; the run starts over (%s)", reason, aside)

    def remove(self) -> None:
        """Remove everything that was kept for the run, which has ended."""
        with contextlib.suppress(OSError), private_folder(self.path.parent) as study:
            with contextlib.suppress(OSError):
                os.unlink(self.path.name, dir_fd=study)
            self._remove_temporary_files(study)
            shutil.rmtree(self.folder.name, ignore_errors=True, dir_fd=study)

    def _remove_temporary_files(self, study: int) -> None:
        """Remove the temporary files of killed writers: this process alone holds the run."""
        with contextlib.suppress(OSError):
            for name in os.listdir(study):
                if name.startswith(f".{self.path.name}."):
                    os.unlink(name, dir_fd=study)

    def _header(self, payload: bytes) -> bytes:
        digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES, key=self._fingerprint)
        return MAGIC + self._fingerprint + digest.digest()

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("%s", text)
        self._warned = True
