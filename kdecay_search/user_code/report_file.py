"""Follows a file in which a program records its training, while it grows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from kdecay_search.study.report_source import ReportSource
from kdecay_search.user_code.report_rows import Row, RowReader, value_of
from kdecay_search.user_code.reports import WrongReport

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 256
"""Bytes before the place up to which a file was read; if they differ, it was written anew."""
MOST_SHOWN = 20
"""Largest number of columns, keys or files that a message lists."""


class FollowedFile:
    """The file of ``[task.report]``, from which new rows are read whenever it has grown.

    Rows that were there before the program started are not returned. A file that is written anew
    is read again from its start, without as many rows as were returned before.

    Args:
        source: What is looked for in the file.
        folder: The run's folder that contains the file.
    """

    def __init__(self, source: ReportSource, folder: Path) -> None:
        assert source.value is not None
        self._source, self._folder, self._value = source, folder, source.value
        self._reader = RowReader(self._value)
        self._path: Path | None = None
        self._inode, self._offset, self._sample = 0, 0, b""
        self._returned, self._to_skip = 0, 0
        self._before = {path: (state, _end_of(path, state)) for path, state in self._matches()}

    def rows(self, is_last: bool = False) -> list[Row]:
        """Return the new rows that have a value of the metric.

        Args:
            is_last: Whether the program has ended, so that the last line is complete.

        Raises:
            WrongReport: Several files match.
        """
        if self._path is None:
            self._path = self._found()
        if self._path is None:
            return []
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return []  # perhaps it is being replaced at the moment
        with os.fdopen(descriptor, "rb") as file:
            found = self._read(file, is_last)
        rows = [row for row in found if value_of(row, self._value) is not None]
        skipped = min(self._to_skip, len(rows))
        self._to_skip -= skipped
        self._returned += len(rows) - skipped
        return rows[skipped:]

    def missing(self, key: str, name: str) -> str:
        """Return a message about a column or key that a row does not have.

        Args:
            key: The key of ``[task.report]`` that names it.
            name: The name of the column or key.
        """
        assert self._path is not None
        kind = "key" if self._reader.is_json else "column"
        names = self._reader.names
        has = f"no value in this {kind}" if name in names else f"no such {kind}"
        return f"task.report.{key} = {name!r}: {self._path.name} has {has}; it has {_listed(names)}"

    def problem(self) -> str:
        """Return why no report was found; empty if there was one."""
        if self._returned:
            return ""
        if self._path is None:
            files = (path for path in sorted(self._folder.rglob("*")) if path.is_file())
            there = _listed(str(path.relative_to(self._folder)) for path in files)
            return (
                f"task.report.file = {self._source.file!r}: the program wrote no such file; "
                f"{{{self._source.folder}}} has {there or 'no file'}"
            )
        if self._reader.is_array or not self._reader.names:
            what = "a JSON array" if self._reader.is_array else "empty, or no table"
            return f"task.report.file: {self._path.name} is {what}; it must be CSV or JSON lines"
        return self.missing("value", self._value)

    def _read(self, file: BinaryIO, is_last: bool) -> list[Row]:
        """Return all rows that were not read before."""
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            return []
        if state.st_ino != self._inode or not self._continues(file):
            self._reader = RowReader(self._value)
            self._inode, self._offset, self._sample = state.st_ino, 0, b""
            self._to_skip = self._returned
        file.seek(self._offset)
        rows: list[Row] = []
        while chunk := file.read(CHUNK_BYTES):
            rows += self._reader.feed(chunk)
            self._offset += len(chunk)
            self._sample = (self._sample + chunk)[-SAMPLE_BYTES:]
        return [*rows, *self._reader.finish()] if is_last else rows

    def _continues(self, file: BinaryIO) -> bool:
        """Return whether the part that was read is still what the file begins with."""
        file.seek(self._offset - len(self._sample))
        return file.read(len(self._sample)) == self._sample

    def _found(self) -> Path | None:
        """Return the file once the program writes to it, and skip what it already contained."""
        found = [
            (path, state)
            for path, state in self._matches()
            if path not in self._before or _differ(self._before[path][0], state)
        ]
        if not found:
            return None
        if len(found) > 1:
            names = _listed(str(path.relative_to(self._folder)) for path, _ in found)
            raise WrongReport(
                f"task.report.file = {self._source.file!r}: several files match: {names}"
            )
        path, _ = found[0]
        if path in self._before:
            self._skip(path, *self._before[path])
        return path

    def _skip(self, path: Path, before: os.stat_result, sample: bytes) -> None:
        """Go on where the file ended before the program started, unless it was written anew."""
        with path.open("rb") as file:
            head = file.read(before.st_size)
        if len(head) < before.st_size or not head.endswith(sample):
            return
        for _ in self._reader.feed(head):
            pass  # only the header matters
        self._reader.drop_partial_line()
        self._inode, self._offset, self._sample = path.stat().st_ino, len(head), sample

    def _matches(self) -> list[tuple[Path, os.stat_result]]:
        """Return the regular files that match, in order."""
        found = []
        for path in sorted(self._folder.glob(self._source.path_in_folder)):
            try:
                state = path.stat()
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                found.append((path, state))
        return found


def _differ(before: os.stat_result, now: os.stat_result) -> bool:
    """Return whether a file has been written to."""
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (
        now.st_ino, now.st_size, now.st_mtime_ns
    )  # fmt: skip


def _end_of(path: Path, state: os.stat_result) -> bytes:
    """Return the last bytes of a file; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, state.st_size - SAMPLE_BYTES))
            return file.read(min(state.st_size, SAMPLE_BYTES))
    except OSError:
        return b""


def _listed(names: Iterable[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:MOST_SHOWN]) + (", …" if len(shown) > MOST_SHOWN else "")
