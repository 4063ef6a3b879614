"""What a program writes: bounded in size, and safe to print on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kdecay_search.errors import KEPT_BYTES, cleaned

LONGEST_LINE_BYTES = 1 << 16
"""A longer line is never a report line."""


class Tail:
    """Keeps the end of a stream, however long the stream is."""

    def __init__(self) -> None:
        self._kept = b""
        self._lock = threading.Lock()

    def feed(self, chunk: bytes) -> None:
        """Append ``chunk`` to the stream."""
        with self._lock:
            self._kept = (self._kept + chunk)[-2 * KEPT_BYTES :]

    def text(self) -> str:
        """Return the last ``KEPT_BYTES`` of the stream, as lines of printable characters."""
        with self._lock:
            kept = self._kept
        text = cleaned(kept[-KEPT_BYTES:].decode(errors="replace"))
        return f"…{text}" if len(kept) > KEPT_BYTES else text

    def last_line(self) -> str:
        """Return the last line that is not blank; empty if there is none."""
        lines = self.text().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass(frozen=True)
class ReportLines:
    """Which lines of a stream are reports; by default, all of them."""

    is_report: Callable[[bytes], bool] = lambda line: True
    """Whether a line, which contains ``mark``, is a report."""
    mark: bytes = b""
    """Bytes that every report line contains; output without them is not examined line by line."""
    is_free_text: bool = False
    """Whether reports are lines of a log: they may be on standard error as well, and a carriage
    return ends a line, as in a progress bar."""


class LineSplitter:
    """Cuts a stream into lines: report lines go to ``handle``, all other output to ``tail``."""

    def __init__(
        self, report_lines: ReportLines, handle: Callable[[bytes], None], tail: Tail
    ) -> None:
        self._report_lines, self._handle, self._tail = report_lines, handle, tail
        self._begun = b""
        self._is_too_long = False

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk of the stream."""
        if self._report_lines.is_free_text:
            chunk = chunk.replace(b"\r", b"\n")
        whole = self._begun + chunk
        if self._report_lines.mark in whole:
            *lines, rest = whole.split(b"\n")
        else:
            before, newline, rest = whole.rpartition(b"\n")
            lines = [before] if newline else []
        others = []
        for line in lines:
            if not self._is_too_long and self._report_lines.is_report(line):
                self._handle(line)
            else:
                others.append(line + b"\n")
            self._is_too_long = False
        if len(rest) > LONGEST_LINE_BYTES:
            others.append(rest)
            self._is_too_long, rest = True, b""
        self._begun = rest
        if others:
            self._tail.feed(b"".join(others))

    def finish(self) -> None:
        """Take the end of the stream, which ends its last line, too."""
        if self._begun:
            self.feed(b"\n")
