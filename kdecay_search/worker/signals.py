"""Signals to a worker process: the first drains it, the second kills it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that drain a worker. Slurm sends SIGUSR1 before a job's time limit."""


def handled_signals() -> list[signal.Signals]:
    """Return those of :data:`DRAIN_SIGNALS` that this process does not ignore.

    A signal that was ignored when the process started, as SIGHUP is under ``nohup``, must stay
    ignored.
    """
    return [number for number in DRAIN_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def drain_signal() -> signal.Signals:
    """Return the signal that drains the workers of this process.

    It is SIGTERM, unless they ignore that because this process did so when it started.
    """
    return next(iter(handled_signals()), signal.SIGTERM)


def drain_on_signal(stop: threading.Event) -> None:
    """Set ``stop`` on the first of :func:`handled_signals`; the second ends the process."""
    handled = handled_signals()

    def drain(signum: int, frame: FrameType | None) -> None:
        stop.set()
        for number in handled:
            signal.signal(number, signal.SIG_DFL)

    for number in handled:
        signal.signal(number, drain)
