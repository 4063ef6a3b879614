"""Turns what training code reports, after whatever steps, into the reports that its study plans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

from kdecay_search.errors import TaskError
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code.reports import WrongReport, as_count

logger = logging.getLogger(__name__)


class Progress:
    """The reports of one run so far.

    A study of epochs takes every epoch once, in order. A study of steps plans reports at multiples
    of ``task.report_every`` and at the end. Code may report more often, or at other steps:

    - the last value at or before a planned step counts for that step;
    - the last report counts for the end, also if it is early, or late by less than
      ``report_every`` steps;
    - a report at step 0, before the training, is left out.

    Args:
        length: The length of the run.
    """

    def __init__(self, length: TrainingLength) -> None:
        self.length = length
        """The length of the run."""
        self.curve: list[Epoch] = []
        """The planned reports that are known."""
        self.positions: list[int] = []
        """The epochs or steps after which those reports were made."""
        self._pending: tuple[int, Epoch] | None = None
        """A report that counts for the next planned step, unless a later one does."""
        self._is_restored = False

    @property
    def position(self) -> int:
        """Number of epochs or steps of the last report; 0 before the first."""
        if self._pending is not None:
            return self._pending[0]
        return self.positions[-1] if self.positions else 0

    @property
    def is_complete(self) -> bool:
        """Whether all planned reports are known."""
        return len(self.curve) == self.length.reports

    def take(self, name: str, position: object, report: Epoch) -> list[Epoch]:
        """Take a report.

        Args:
            name: What was called, for messages.
            position: The number of epochs or steps that are done.
            report: What was reported; its number is ignored.

        Returns:
            The planned reports that are known now, in order, with their numbers.

        Raises:
            TaskError: The position is wrong; a :class:`WrongReport` if every attempt would be.
        """
        if self.length.counts_steps:
            found = self._take_step(name, position, report)
        else:
            found = [(self._next_epoch(name, position), report)]
        return self._numbered(found)

    def finish(self, is_required: bool = True) -> list[Epoch]:
        """Return what is known once the training has ended: the last report may be early.

        Args:
            is_required: Whether the last planned report must be known now.

        Raises:
            WrongReport: It is not.
        """
        found = []
        if self._pending is not None and len(self.curve) == self.length.reports - 1:
            found, self._pending = [self._pending], None
        numbered = self._numbered(found)
        if is_required and not self.is_complete and self.length.counts_steps:
            raise self._wrong(
                f"the last report was after step {self.position:,} of {self.length.setting}; "
                f"report once more at the end of the training, or set {self.length.key} to the "
                "number of updates that your code trains"
            )
        return numbered

    def before(self, position: int) -> Progress:
        """The progress without the reports at a position and after it."""
        found = Progress(self.length)
        found._is_restored = True
        for at, report in zip(self.positions, self.curve, strict=True):
            if at < position:
                found.positions.append(at)
                found.curve.append(report)
        if self._pending is not None and self._pending[0] < position:
            found._pending = self._pending
        return found

    def to_plain(self) -> dict[str, Any]:
        """The positions as JSON-serialisable values; the curve is kept beside them."""
        pending = self._pending and [self._pending[0], list(astuple(self._pending[1]))]
        return {"positions": self.positions, "pending": pending}

    @staticmethod
    def restored(
        length: TrainingLength, curve: Sequence[Epoch], plain: Mapping[str, Any] | None = None
    ) -> Progress:
        """The progress that an interrupted attempt has saved.

        Args:
            length: The length of the run.
            curve: The planned reports that were known.
            plain: What :meth:`to_plain` returned; None in what earlier versions saved.
        """
        found = Progress(length)
        found._is_restored = True
        found.curve = list(curve)
        found.positions = length.positions()[: len(curve)] if plain is None else plain["positions"]
        if plain is not None and plain["pending"] is not None:
            at, values = plain["pending"]
            found._pending = at, Epoch(*values)
        return found

    def _numbered(self, found: Sequence[tuple[int, Epoch]]) -> list[Epoch]:
        reports = []
        for position, report in found:
            reports.append(replace(report, number=len(self.curve) + 1))
            self.curve.append(reports[-1])
            self.positions.append(position)
        return reports

    def _next_epoch(self, name: str, epoch: object) -> int:
        done, total = len(self.curve), self.length.total
        if done == total:
            raise self._wrong(
                f"{name}: all of {self.length} were reported before; set {self.length.key} to the "
                "number of epochs that your code trains"
            )
        if epoch != done + 1:
            raise self._wrong(
                f"{name}: epoch {done + 1} is next; report every epoch once, in order, from 1"
            )
        return done + 1

    def _take_step(self, name: str, position: object, report: Epoch) -> list[tuple[int, Epoch]]:
        step, length = as_count("step", position), self.length
        if step == 0:
            logger.info("the report after step 0 is left out: nothing was trained yet")
            return []
        last = self._last
        if last is not None and step == last[0] and replace(report, number=0) == last[1]:
            return []  # the same report again
        if last is not None and step <= last[0]:
            raise self._wrong(
                f"{name}: follows a report after step {last[0]:,}; report every step once, in order"
            )
        if step >= length.total + length.report_every:
            raise self._wrong(
                f"{name}: {length.setting} is the end of the training; set it to the number of "
                "updates that your code trains"
            )
        if self.is_complete:
            logger.warning("step %d is after the end of the training and does not count", step)
            return []
        return self._counted(name, step, report)

    @property
    def _last(self) -> tuple[int, Epoch] | None:
        """The last report that was taken, without its number."""
        if self._pending is not None:
            return self._pending
        return (self.positions[-1], replace(self.curve[-1], number=0)) if self.curve else None

    def _counted(self, name: str, step: int, report: Epoch) -> list[tuple[int, Epoch]]:
        """The reports that are known now that one after ``step`` was made."""
        length, done, found = self.length, len(self.curve), []
        is_end = step >= length.total
        passed = length.reports if is_end else step // length.report_every
        counts_itself = is_end or (passed > done and step == length.position(passed))
        earlier = passed - done - counts_itself  # planned reports that only earlier ones can be
        if earlier > (self._pending is not None):
            missing = done + 1 + (self._pending is not None)
            raise self._wrong(
                f"{name}: there was no report from step {length.position(missing - 1) + 1:,} to "
                f"{length.position(missing):,}, but task.report_every = {length.report_every}; "
                "report as often, or set it to the steps between your reports"
            )
        if earlier == 1 and self._pending is not None:
            found.append(self._pending)
        self._pending = None
        if counts_itself:
            found.append((step, report))
        else:
            self._pending = step, replace(report, number=0)
        return found

    def _wrong(self, text: str) -> TaskError:
        """The error for a report; one in a resumed run may be right in another attempt."""
        return TaskError(text) if self._is_restored else WrongReport(text)
