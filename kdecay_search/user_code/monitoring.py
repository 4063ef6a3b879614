"""Serves a program that trains a run, until it has ended or its run is interrupted."""

from __future__ import annotations

import signal
import time
from typing import Protocol

from kdecay_search.errors import cleaned
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.protocol import Interruption, Released, Run
from kdecay_search.user_code.process import Program

POLL_SECONDS = 0.2
"""Longest time between two checks of whether the run is interrupted or has hung."""
GRACE_SHARE = 0.5
"""Share of the worker's grace period in which a program may save its state after SIGTERM; the
worker itself has to leave within 0.8 of that period."""
MOST_GRACE_SECONDS = 10.0
"""Longest grace period of a program whose run will not be resumed."""
ABORT_SECONDS = 5.0
"""Time that Python gets after SIGABRT to write down where it hangs."""


class RunFailed(Exception):
    """User code did not bring its run to an end; the text is one line."""

    output: str
    """What the program wrote last, or the traceback; safe to print."""
    is_wrong: bool
    """Whether it reported what no attempt can report rightly, so that the run fails at once."""

    def __init__(self, text: str, output: str = "", is_wrong: bool = False) -> None:
        super().__init__(" ".join(cleaned(text).split()))
        self.output, self.is_wrong = cleaned(output), is_wrong


class ServedTask(Protocol):
    """What is asked of the task whose run a program trains."""

    @property
    def length(self) -> TrainingLength:
        """How long a run trains, and when it reports."""
        ...

    @property
    def epoch_timeout(self) -> float:
        """Seconds without a report after which a run has failed."""
        ...


class Hung(Exception):
    """Nothing was reported for ``task.epoch_timeout`` seconds; the program has been killed."""


class Handler(Protocol):
    """How one kind of user code reports, and how it is asked to end."""

    def handle(self, line: bytes) -> bool:
        """Handle one report line; return whether it shows that the run made progress."""
        ...

    def terminate(self, seconds: float, interruption: Interruption) -> None:
        """End the program, for this reason, within a grace period of ``seconds``."""
        ...


def serve(run: Run, task: ServedTask, program: Program, handler: Handler) -> None:
    """Pass what the program reports to ``handler`` until the program has ended.

    Raises:
        Interruption: The run is interrupted; the program has been ended.
        Hung: The program reported nothing for ``task.epoch_timeout`` seconds; it has been killed.
    """
    since = time.monotonic()
    try:
        while program.exit is None:
            line = program.next_line(POLL_SECONDS)
            if line is not None and handler.handle(line):
                since = time.monotonic()
            run.poll()
            if time.monotonic() - since > task.epoch_timeout:
                program.stop(signal.SIGABRT, ABORT_SECONDS)
                raise Hung
    except Interruption as interruption:
        longest = GRACE_SHARE * run.spec.workers.grace_seconds
        will_resume = isinstance(interruption, Released)
        seconds = longest if will_resume else min(MOST_GRACE_SECONDS, longest)
        handler.terminate(seconds, interruption)
        raise


def hang_text(task: ServedTask, reports: int) -> str:
    """Return the message for a program that hung after it had made this many planned reports."""
    place = task.length.place(min(reports + 1, task.length.reports))
    return (
        f"{place} was not reported within task.epoch_timeout = {task.epoch_timeout:g} s, so the "
        "program was killed; fix what hangs, or raise task.epoch_timeout"
    )


def last_output(program: Program) -> str:
    """Return the end of a program's standard error; if that is empty, of its standard output."""
    return program.stderr.text() or program.stdout.text()
