"""The result of one check, and running checks within a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kdecay_search.errors import KDecayError


class Severity(StrEnum):
    """How serious a result is. Only an error keeps a worker from working."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str
    """What was checked, in one or two words."""
    severity: Severity
    value: str
    """What was found."""
    fix: str | None = None
    """What to do about it; None if the severity is ``OK``."""


def ok(subject: str, value: str) -> Check:
    return Check(subject, Severity.OK, value)


def warning(subject: str, value: str, fix: str) -> Check:
    return Check(subject, Severity.WARNING, value, fix)


def error(subject: str, value: str, fix: str) -> Check:
    return Check(subject, Severity.ERROR, value, fix)


def within(
    seconds: float, subject: str, run_checks: Callable[[], Iterable[Check]], fix: str
) -> Iterator[Check]:
    """Run checks, and report an error if they take longer than ``seconds`` or raise.

    They run in a daemon thread, because a system call on a dead network disk, or on a frozen
    database, may never return.

    Args:
        seconds: The time limit for all of them.
        subject: The subject of the error that is reported.
        run_checks: Yields the results.
        fix: What to do if the checks take too long or raise.
    """
    results: list[Check] = []

    def work() -> None:
        try:
            results.extend(run_checks())
        except KDecayError as raised:
            results.append(error(subject, str(raised), fix))
        except OSError as raised:
            where, what = raised.filename or "", raised.strerror or raised
            results.append(error(subject, f"{where}: {what}", fix))
        except Exception as raised:
            results.append(error(subject, f"unexpected {type(raised).__name__}: {raised}", fix))

    thread = threading.Thread(target=work, name=f"doctor: {subject}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        yield from list(results)
        yield error(subject, f"no answer within {seconds:g} s", fix)
    else:
        yield from results
