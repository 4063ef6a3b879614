"""Every error that kdecay-search raises on purpose, in one tree.

    KDecayError                 exit code 2; its text is one line: value, rule and fix
    ├── InvalidSchedule         a schedule that cannot be computed (also a ValueError)
    ├── InvalidSpec             a study file that cannot be used; names file and dotted key
    ├── StudyError              a study that is missing, or exists and differs
    │   └── UnreadableStudy     a study whose records make no sense; others are not affected
    ├── StorageError            the database
    │   └── StorageUnavailable  the database cannot be reached now; trying again may help
    ├── HomeError               the user's data folder, KDECAY_HOME (also an OSError)
    ├── DataError               the data set that a task trains on
    ├── TaskError               the user's training code did what a task must not
    ├── NotAllowed              user code that this worker's command line does not allow
    └── MissingPackage          an optional package that this command needs

Errors of dependencies are mapped to these where they are called: pydantic's in ``study.file``,
SQLAlchemy's and Optuna's in ``storage``.
"""

from __future__ import annotations

import re

KEPT_BYTES = 16_384
"""Bytes of a failed program's output, or of its traceback, that are kept: the last ones."""
_CONTROL_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])")


def printable(text: str) -> str:
    """``text`` on one line; what a terminal would act upon is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cleaned(text: str) -> str:
    """``text`` as lines that are safe to print.

    Control sequences such as colours are removed, a progress bar is reduced to its last state, and
    everything else that a terminal would act upon is escaped.
    """
    plain = _CONTROL_SEQUENCES.sub("", text)
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n"))
    return "\n".join(printable(line.expandtabs()) for line in lines).strip("\n")


class KDecayError(Exception):
    """Base class. The text is one line for the user, whatever it quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class InvalidSchedule(KDecayError, ValueError):
    """A schedule that cannot be computed, such as ``lr_min`` above ``lr_max``."""


class InvalidSpec(KDecayError):
    """A study file, or a ``--set`` override, that cannot be used."""


class StudyError(KDecayError):
    """A study that does not exist, or that exists and differs from what was asked."""


class UnreadableStudy(StudyError):
    """A study whose stored records make no sense, such as an error that is no number."""


class StorageError(KDecayError):
    """The database refused what was asked, or cannot do it."""


class StorageUnavailable(StorageError):
    """The database cannot be reached at the moment; the same call may succeed later."""


class HomeError(KDecayError, OSError):
    """The user's data folder (``KDECAY_HOME``) is missing and cannot be made."""


class DataError(KDecayError):
    """A data set that is missing, unreadable or too small for what was asked."""


class TaskError(KDecayError):
    """The user's training code did what a task must not, such as reporting a word as an error."""


class NotAllowed(KDecayError):
    """A study names training code that this worker was not allowed to run."""


class MissingPackage(KDecayError):
    """An optional package is not installed; the text says how to install it."""
