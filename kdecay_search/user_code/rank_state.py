"""The state of a run that several processes train: rank 0's, and each other's random generators.

Rank 0 saves everything, and all ranks load it. What differs between ranks is what their random
generators have drawn; each rank but 0 keeps the state of its own in the run's folder, for the last
two reports, so that it finds the one that belongs to what rank 0 has saved.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Run
from kdecay_search.user_code.random_state import set_random_state
from kdecay_search.user_code.saved_state import SavedState, Stateful, StateStore

logger = logging.getLogger(__name__)

RANDOM = "random"
"""Key of the generators' states in what :func:`.saved_state.state_of` returns."""
KEPT = 2
"""How many states a rank keeps: rank 0 may save a report just before or after it does."""


class RankStateStore(StateStore):
    """What a rank other than 0 saves and loads.

    Args:
        checkpoint: The run's.
        rank: The number of this rank.
    """

    def __init__(self, checkpoint: Checkpoint | None, rank: int) -> None:
        super().__init__(checkpoint)
        self._rank, self._reports = rank, 0
        self._kept: dict[int, Any] = {}
        """States of the random generators, by the number of reports made."""

    def write(self, saved: SavedState) -> None:
        """Keep the random generators' states, if they are a part of what rank 0 saves."""
        if self._checkpoint is None or not isinstance(saved.state, dict):
            return
        if RANDOM in saved.state:
            self._kept[len(saved.curve)] = saved.state[RANDOM]
            self._kept = dict(sorted(self._kept.items())[-KEPT:])
            self._checkpoint.make_folder()
            self._own(self._checkpoint).write(SavedState([], [], self._kept).to_bytes())

    def read(self) -> SavedState | None:
        saved = super().read()
        self._reports = 0 if saved is None else len(saved.curve)
        return saved

    def restore(self, objects: Sequence[Stateful], state: Any) -> None:
        super().restore(objects, state)
        payload = self._checkpoint and self._own(self._checkpoint).read()
        kept = SavedState.from_bytes(payload).state if payload else {}
        if self._reports in kept:
            self._kept = {self._reports: kept[self._reports]}
            set_random_state(kept[self._reports])
        else:
            logger.warning(
                "rank %d has no random state of report %d: it continues with rank 0's",
                self._rank, self._reports,
            )  # fmt: skip

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """The file of this rank, in the run's folder; it is removed with it."""
        own = copy.copy(checkpoint)
        own.path = checkpoint.folder / f"rank{self._rank}.ckpt"
        return own


def state_store(run: Run) -> StateStore:
    """Return where this process keeps the state of ``run``."""
    rank = int(getattr(run, "rank", 0))
    return RankStateStore(run.checkpoint, rank) if rank else StateStore(run.checkpoint)
