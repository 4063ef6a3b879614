"""First signal drains, second kills."""

from __future__ import annotations

import signal
import threading
from types import FrameType

DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is what Slurm sends before a job's time is over."""


def drain_on_signal(stop: threading.Event) -> None:
    """Set ``stop`` on the first of ``DRAINING``; the next one ends the process."""

    def drain(signum: int, frame: FrameType | None) -> None:
        stop.set()
        for number in DRAINING:
            signal.signal(number, signal.SIG_DFL)

    for number in DRAINING:
        signal.signal(number, drain)
