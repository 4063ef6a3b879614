"""Where the processes that train one run agree on the update at which all of them end.

Each process (a *rank*) polls before every update of its own, and writes the number of that poll to
a page of memory that all share. Who ends the run names the first poll that no rank has reached yet.
So all of them end at the same update, and none waits in a collective operation for one that has
ended: what was begun before that poll, all of them complete.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBER = struct.Struct("q")
_NAME_BYTES = 32


class Board:
    """The shared page: the number of each rank's last poll, and that of the poll that ends the run.

    Args:
        descriptor: A file of :func:`board_bytes`, open in every process; a lock on it, which the
            kernel releases with the process, makes each step whole.
        ranks: The number of ranks.
    """

    def __init__(self, descriptor: int, ranks: int) -> None:
        self.descriptor = descriptor
        self._ranks = ranks
        self._page = mmap.mmap(descriptor, board_bytes(ranks))

    @staticmethod
    def made(ranks: int) -> Board:
        """Make the page of a new run."""
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, board_bytes(ranks))
        return Board(descriptor, ranks)

    def announce(self, rank: int, poll: int) -> str | None:
        """Note that ``rank`` has come to this poll of its own, counted from 1.

        Returns:
            The name of the interruption, if the run ends at this poll; else None.
        """
        with self._lock():
            self._write(rank, poll)
            last = self._read(self._ranks)
            if not last or poll < last:
                return None
            start = self._offset(self._ranks + 1)
            return self._page[start : start + _NAME_BYTES].rstrip(b"\0").decode()

    def end(self, interruption: str) -> None:
        """End the run at the next poll that no rank has reached; the first call counts."""
        with self._lock():
            if self._read(self._ranks):
                return
            start, name = self._offset(self._ranks + 1), interruption.encode()
            self._page[start : start + _NAME_BYTES] = name.ljust(_NAME_BYTES, b"\0")
            self._write(self._ranks, 1 + max(self._read(rank) for rank in range(self._ranks)))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def _offset(self, slot: int) -> int:
        return slot * _NUMBER.size

    def _read(self, slot: int) -> int:
        number: int = _NUMBER.unpack_from(self._page, self._offset(slot))[0]
        return number

    def _write(self, slot: int, number: int) -> None:
        _NUMBER.pack_into(self._page, self._offset(slot), number)


def board_bytes(ranks: int) -> int:
    """Return the size of the page for this number of ranks."""
    return (ranks + 1) * _NUMBER.size + _NAME_BYTES
