"""Why the embedded server cannot be used, for the user in one line: what is wrong, and a fix."""

from __future__ import annotations

import errno
import re
from pathlib import Path

ELSEWHERE = "give --storage a Postgres server, or set KDECAY_HOME to another folder"
LOCAL = "set KDECAY_HOME to a folder on a local disk, or give --storage a Postgres server"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FIXES = (
    ("No space left on device", "make room on that disk", True),
    ("Disk quota exceeded", "make room", True),
    ("Cannot allocate memory", "free some memory", True),
    ("could not fork", "free some memory, or end some processes", True),
    ("checkpoint record", "the data is damaged: restore a backup, or move {data} away", False),
    ("PANIC: ", "the data is damaged: restore a backup, or move {data} away", False),
    ("incompatible with server", "use the version of kdecay-search that made it", False),
    ("has invalid permissions", "chmod 700 {data}", False),
    ("has wrong ownership", "run the command as the user who owns {data}", False),
    ("Permission denied", "set KDECAY_HOME to a folder that this user can write to", False),
    ("Read-only file system", "set KDECAY_HOME to a folder that this user can write to", False),
)
_REASONS = tuple(re.compile(rf"\b{word}: .*") for word in ("PANIC", "FATAL", "ERROR", "error"))
"""The gravest comes first, in programs' output and in logs."""


class Problem(Exception):
    """The server cannot be used.

    Attributes:
        cause: What is wrong: a predicate of "the embedded Postgres in FOLDER".
        fix: What to do about it.
        passing: Whether the same attempt may succeed a little later.
    """

    def __init__(self, cause: str, fix: str, passing: bool = False) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix
        self.passing = passing


def problem_of(error: OSError) -> Problem:
    """Return what an error of the operating system means for the server."""
    what = error.strerror or str(error) or type(error).__name__
    cause = "cannot be used: " + (f"{error.filename}: {what}" if error.filename else what)
    if error.errno in _FULL:
        return Problem(cause, "make room on that disk", passing=True)
    return Problem(cause, "set KDECAY_HOME to a folder that this user can write to")


def problem_of_postgres(lines: list[str], data: Path, log: Path | None = None) -> Problem:
    """Return the problem that Postgres reported when it did not start.

    Args:
        lines: What it said.
        data: The data folder.
        log: The file that has more.
    """
    reasons = [match[0] for word in _REASONS for match in map(word.search, lines) if match]
    said = [*reasons, *lines[-1:], "it does not say why"][0].strip()
    cause = f"does not start: {said}"
    for words, fix, passing in _FIXES:
        if words in said:
            more = f" (log: {log})" if log else ""
            return Problem(cause, f"{fix.format(data=data)}{more}", passing)
    return Problem(cause, f"see {log}" if log else ELSEWHERE)
