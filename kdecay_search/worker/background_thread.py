"""A thread that goes along with a training."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Self

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class BackgroundThread:
    """Runs :meth:`_run` in a thread of its own for as long as a ``with`` block lasts."""

    patience_seconds: float | None = None
    """How long the end of the block waits for the thread's; None: until it is there."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._wake()
        self._thread.join(self.patience_seconds)

    def _run(self) -> None:
        """To return soon after ``_ended`` is set."""
        raise NotImplementedError

    def _wake(self) -> None:
        """End a wait for something else than ``_ended``."""


def pauses() -> Iterator[float]:
    """Seconds to wait before each further try: longer and longer, and random, so that many
    workers do not come at once."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield longest * random.uniform(0.5, 1.0)
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)
