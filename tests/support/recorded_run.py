"""A run in memory, for training code of one's own: it records, and interrupts where it is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Interruption
from tests.support.memory_studies import study


class RecordedRun:
    """A :class:`kdecay_search.tasks.protocol.Run`. ``folder``: where its checkpoint lies, if any;
    ``ends``: what to raise at the report of an epoch, by its number."""

    def __init__(
        self,
        folder: Path | None = None,
        ends: dict[int, type[Interruption]] | None = None,
        ks: tuple[float, ...] = (2.0,),
        comparator: str | None = None,
        **tables: Any,
    ) -> None:
        self.spec = study(**tables)
        self.ks, self.comparator, self.seed, self.device = ks, comparator, 0, "cpu"
        self.lr_max: float | None = None
        self.point: Candidate | None = None
        self.checkpoint = None
        if folder is not None:
            fingerprint = self.spec.fingerprint(ks, 0, comparator)
            self.checkpoint = Checkpoint(folder, RunKey(1, 0, 0), fingerprint, 300.0)
        self.epochs: list[Epoch] = []
        self.restored: list[Epoch] = []
        self.polls = 0
        self.end: Interruption | None = None
        """Raised by the next poll."""
        self._ends = ends or {}

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self.restored = list(epochs)

    def report(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if epoch.number in self._ends:
            raise self._ends[epoch.number]

    def poll(self) -> None:
        self.polls += 1
        if self.end is not None:
            raise self.end
