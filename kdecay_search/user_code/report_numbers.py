"""Turns what a program calls its reports, and the texts of their values, into numbers."""

from __future__ import annotations

import re

from kdecay_search.study.training_length import TrainingLength
from kdecay_search.user_code.reports import WrongReport

_WHOLE = re.compile(r"\+?(\d{1,15})(\.0*)?")
_SHOWN_CHARACTERS = 100


class ReportCounter:
    """Finds the epoch or step of a report, whichever number the program starts from.

    Args:
        length: The length of the run.
        first: The number that the program gives its first report; None to find out: epochs count
            from 0 if the first number is 0, and steps count updates.
    """

    def __init__(self, length: TrainingLength, first: int | None) -> None:
        self._length = length
        self._first = first if first is not None else None if length.unit == "epoch" else 1
        self._offset = 0 if first is None else length.position(1) - first
        self._counted = 0

    def next(self) -> int:
        """Return the epoch or step of the next report of a program that does not number them."""
        self._counted += 1
        if self._counted > self._length.reports:
            return self._length.total + 1
        return self._length.position(self._counted)

    def place(self, name: str, number: object) -> int | None:
        """Return the epoch or step of the report to which the program gives a number.

        Args:
            name: What the program calls the number, for messages.
            number: The number, or its text.

        Returns:
            The epoch or step, counted from 1; None for what comes before the first report, such as
            a validation before the training.

        Raises:
            WrongReport: It is not a whole number.
        """
        text = str(number).strip()
        match = _WHOLE.fullmatch(text)
        if match is None:
            raise WrongReport(f"{name} = {text[:_SHOWN_CHARACTERS]}: must be a whole number")
        found = int(match.group(1))
        if self._first is None:
            self._first, self._offset = min(found, 1), int(found == 0)
        return found + self._offset if found >= self._first else None


def number_of(name: str, value: object) -> float:
    """Return a value as a float; a percent sign at the end of a text is ignored.

    Args:
        name: What the program calls it, for messages.
        value: A number, or its text.

    Raises:
        WrongReport: It is not a number.
    """
    text = str(value).strip()
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise WrongReport(f"{name} = {text[:_SHOWN_CHARACTERS]}: must be a number") from None
