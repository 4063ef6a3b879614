"""One finding, and looking for findings within a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kdecay_search.errors import KDecayError


class Mark(StrEnum):
    """How a finding is judged: only what is bad keeps a worker from working."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's."""

    subject: str
    mark: Mark
    value: str
    mend: str | None = None
    """What to do about it; None where nothing is wrong."""


def ok(subject: str, value: str) -> Check:
    return Check(subject, Mark.OK, value)


def warning(subject: str, value: str, mend: str) -> Check:
    return Check(subject, Mark.WARNING, value, mend)


def bad(subject: str, value: str, mend: str) -> Check:
    return Check(subject, Mark.BAD, value, mend)


def within(
    seconds: float, subject: str, look: Callable[[], Iterable[Check]], hint: str
) -> Iterator[Check]:
    """What ``look`` finds; one bad finding, with ``hint``, if it takes longer or fails.

    It runs in a daemon thread: a dead network disk blocks a system call for ever, and a frozen
    database one that waits for its answer.
    """
    found: list[Check] = []

    def work() -> None:
        try:
            found.extend(look())
        except KDecayError as error:
            found.append(bad(subject, str(error), hint))
        except OSError as error:
            found.append(bad(subject, f"{error.filename or ''}: {error.strerror or error}", hint))
        except Exception as error:
            found.append(bad(subject, f"unforeseen {type(error).__name__}: {error}", hint))

    thread = threading.Thread(target=work, name=f"doctor: {subject}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        yield from list(found)
        yield bad(subject, f"no answer within {seconds:g} s", hint)
    else:
        yield from found
