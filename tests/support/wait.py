"""Waiting for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], what: str, seconds: float = 120) -> Value:
    """The first true value of ``condition()``."""
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        assert waited < seconds, f"{what} did not happen within {seconds} s"
        time.sleep(min(0.1, 0.02 + 0.01 * waited))  # looking takes time from what is waited for
    return value
