"""A program at work on a run: served until it has ended, or ended when the worker wishes so."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from kdecay_search.errors import cleaned
from kdecay_search.study.user_tasks import UserTask
from kdecay_search.tasks.protocol import Interruption, Released, Run
from kdecay_search.user_code.process import Program

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LEAVING_SHARE = 0.5
"""Of the grace period, for a program to keep its state; the worker has to leave within 0.8."""
LEAVING_SECONDS = 10.0
"""The same where nobody will go on with the state."""
ABORTING_SECONDS = 5.0
"""For Python to write down where it hangs."""

Take = Callable[[bytes], bool]
"""Takes a line of what a program reports; says whether the run has come further by it."""
Leave = Callable[[float, Interruption], None]
"""Ends a program within so many seconds, for this reason."""


class RunFailed(Exception):
    """The user's own code did not bring the run to its end: one line; and what it said itself."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(" ".join(cleaned(text).split()))
        self.output = cleaned(output)


class Hung(Exception):
    """Nothing was reported for ``task.epoch_timeout``; the program has been killed."""


def serve(run: Run, task: UserTask, program: Program, take: Take, leave: Leave) -> None:
    """Take what the program reports until it has ended.

    Raises :class:`Interruption` of the run when the program has left, and :class:`Hung`.
    """
    since = time.monotonic()
    try:
        while program.ended is None:
            line = program.next(POLL_SECONDS)
            if line is not None and take(line):
                since = time.monotonic()
            run.poll()
            if time.monotonic() - since > task.epoch_timeout:
                program.stop(signal.SIGABRT, ABORTING_SECONDS)
                raise Hung
    except Interruption as wish:
        leave(leaving_seconds(run, wish), wish)
        raise


def leaving_seconds(run: Run, wish: Interruption) -> float:
    """How long a program may take to end."""
    longest = LEAVING_SHARE * run.spec.workers.grace_seconds
    return longest if isinstance(wish, Released) else min(LEAVING_SECONDS, longest)


def hang_text(task: UserTask, epochs: int) -> str:
    """``epochs``: that were reported before."""
    return (
        f"epoch {epochs + 1} was not reported within task.epoch_timeout = {task.epoch_timeout:g} s "
        "and the program was killed; mend what hangs, or allow more"
    )


def last_words(program: Program) -> str:
    """What a program wrote last: its errors, or else its output."""
    return program.stderr.text() or program.stdout.text()
