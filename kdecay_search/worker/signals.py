"""Signals to a worker process: the first drains it, the second kills it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that drain a worker. Slurm sends SIGUSR1 before a job's time limit."""


def drain_on_signal(stop: threading.Event) -> None:
    """Set ``stop`` on the first of :data:`DRAIN_SIGNALS`; the second ends the process."""

    def drain(signum: int, frame: FrameType | None) -> None:
        stop.set()
        for number in DRAIN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    for number in DRAIN_SIGNALS:
        signal.signal(number, drain)
