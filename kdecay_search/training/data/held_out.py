"""The test set of a data set, held out so that only a confirmation can read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Purpose(StrEnum):
    """What a data set is loaded for."""

    SEARCH = "search"
    """Train on most of the training set, and choose k by the error on the rest of it."""
    CONFIRMATION = "confirmation"
    """Train on the whole training set, and measure the error on the test set."""


class TestSetAccessError(RuntimeError):
    """Something other than a confirmation asked for the test set: a bug in this program."""

    __test__ = False  # else pytest would collect it as a test


@dataclass(frozen=True)
class HeldOutTestSet(Generic[T]):
    """Reads the test set, for a confirmation only.

    None of it is read, listed or decoded before :meth:`open`.
    """

    _read: Callable[[], T]

    def open(self, purpose: Purpose) -> T:
        """Read the test set.

        Raises:
            TestSetAccessError: ``purpose`` is not a confirmation.
        """
        if purpose is not Purpose.CONFIRMATION:
            raise TestSetAccessError(f"the test set was asked for by a {purpose}")
        return self._read()
