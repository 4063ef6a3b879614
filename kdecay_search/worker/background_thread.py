"""A thread that runs beside a training."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Self

FIRST_RETRY_SECONDS = 0.2
"""Longest delay before the first retry of a failed database call."""
MAX_RETRY_SECONDS = 5.0
"""Longest delay before any retry."""


class BackgroundThread:
    """Runs :meth:`_run` in a thread for as long as a ``with`` block lasts."""

    join_seconds: float | None = None
    """Longest wait for the thread at the end of the block; None waits without limit."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        """Set at the end of the ``with`` block."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._wake()
        self._thread.join(self.join_seconds)

    def _run(self) -> None:
        """Do the thread's work, and return soon after ``_ended`` is set."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake the thread if it waits for anything other than ``_ended``."""


def retry_delays() -> Iterator[float]:
    """Yield the seconds to wait before each retry: exponential backoff with jitter.

    The jitter keeps workers that lost the database together from returning together.
    """
    longest = FIRST_RETRY_SECONDS
    while True:
        yield longest * random.uniform(0.5, 1.0)
        longest = min(2 * longest, MAX_RETRY_SECONDS)
