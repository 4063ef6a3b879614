"""How long a run trains, in epochs or in optimizer updates, and when it reports.

A run has a fixed number of *reports*, numbered from 1. What the search calls an epoch is one
report: in a study that counts epochs it is after every epoch, and in one that counts steps it is
after every ``report_every`` steps and at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["epoch", "step"]


@dataclass(frozen=True)
class TrainingLength:
    """The length of every run of a study: ``8 epochs``, or ``2,000 steps`` with reports."""

    unit: Unit
    """What the length is counted in; a step is one optimizer update."""
    total: int
    """Number of epochs or steps of a run."""
    report_every: int = 1
    """Epochs or steps from one report to the next; 1 for epochs."""

    def __str__(self) -> str:
        return self.count(self.total)

    @property
    def counts_steps(self) -> bool:
        """Whether the study counts steps, and not epochs."""
        return self.unit == "step"

    @property
    def key(self) -> str:
        """The study file's key for ``total``: ``task.epochs`` or ``task.steps``."""
        return f"task.{self.unit}s"

    @property
    def setting(self) -> str:
        """The study file's line for ``total``, as messages quote it: ``task.steps = 2000``."""
        return f"{self.key} = {self.total}"

    @property
    def reports(self) -> int:
        """Number of reports of a run; the last one is at its end."""
        return math.ceil(self.total / self.report_every)

    def position(self, report: int) -> int:
        """The epochs or steps that are done when a report is made.

        Args:
            report: The report's number, from 1; 0 stands for the begin of the training.
        """
        return min(report * self.report_every, self.total)

    def positions(self) -> list[int]:
        """The positions of all reports, in order."""
        return [self.position(report) for report in range(1, self.reports + 1)]

    def place(self, report: int) -> str:
        """Where a report is, in words: ``epoch 3`` or ``step 1,500``."""
        return f"{self.unit} {self.position(report):,}"

    def count(self, number: int) -> str:
        """A number of epochs or steps in words: ``1 epoch`` or ``2,000 steps``."""
        return f"{number:,} {self.unit}" if number == 1 else f"{number:,} {self.unit}s"

    def updates(self, steps_per_epoch: float = 1) -> float:
        """Number of optimizer updates of a run.

        Args:
            steps_per_epoch: Optimizer updates per epoch; without effect if steps are counted.
        """
        return self.total if self.counts_steps else self.total * steps_per_epoch
