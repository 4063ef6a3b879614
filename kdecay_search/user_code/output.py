"""What a program writes: bounded, and fit to be shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kdecay_search.errors import KEPT_BYTES, cleaned

LONGEST_LINE_BYTES = 1 << 16
"""A longer line reports nothing."""


class Tail:
    """The end of a stream, however long that is."""

    def __init__(self) -> None:
        self._kept = b""
        self._lock = threading.Lock()

    def feed(self, chunk: bytes) -> None:
        with self._lock:
            self._kept = (self._kept + chunk)[-2 * KEPT_BYTES :]

    def text(self) -> str:
        """At most :data:`KEPT_BYTES` of it, as lines of printable characters."""
        with self._lock:
            kept = self._kept
        whole = kept[-KEPT_BYTES:].decode(errors="replace")
        text = cleaned(whole)
        return f"…{text}" if len(kept) > KEPT_BYTES else text

    def last_line(self) -> str:
        lines = self.text().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass(frozen=True)
class Wanted:
    """Which lines report something: all, or those that hold ``mark`` and of which ``is_wanted``
    says so. A flood without the mark is not looked at line by line."""

    is_wanted: Callable[[bytes], bool] = lambda line: True
    mark: bytes = b""


class Lines:
    """Cuts a stream into lines: those that are ``wanted`` go to ``take``, the rest to ``tail``."""

    def __init__(self, wanted: Wanted, take: Callable[[bytes], None], tail: Tail) -> None:
        self._wanted, self._take, self._tail = wanted, take, tail
        self._begun = b""
        self._is_too_long = False

    def feed(self, chunk: bytes) -> None:
        whole = self._begun + chunk
        if self._wanted.mark in whole:
            *lines, rest = whole.split(b"\n")
        else:
            before, newline, rest = whole.rpartition(b"\n")
            lines = [before] if newline else []
        rejected = []
        for line in lines:
            if not self._is_too_long and self._wanted.is_wanted(line):
                self._take(line)
            else:
                rejected.append(line + b"\n")
            self._is_too_long = False
        if len(rest) > LONGEST_LINE_BYTES:
            rejected.append(rest)
            self._is_too_long, rest = True, b""
        self._begun = rest
        if rejected:
            self._tail.feed(b"".join(rejected))
