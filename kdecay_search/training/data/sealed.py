"""The test part of a data set, which opens for a confirmation alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Purpose(StrEnum):
    """What a data set is loaded for."""

    SEARCH = "search"
    """Train on most of the training part, choose by the rest of it."""
    CONFIRMATION = "confirmation"
    """Train on all of the training part, measure on the test part."""


class TestPartIsSealed(RuntimeError):
    """A mistake in this program: something but a confirmation asked for the test part."""

    __test__ = False  # pytest's: its name begins like a test's


@dataclass(frozen=True)
class Sealed(Generic[T]):
    """Knows how to read the test part, and does so for a confirmation only.

    Nothing of it is read, listed or decoded before.
    """

    _read: Callable[[], T]

    def open(self, purpose: Purpose) -> T:
        if purpose is not Purpose.CONFIRMATION:
            raise TestPartIsSealed(f"the test part was asked for by a {purpose}")
        return self._read()
