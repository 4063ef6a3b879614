"""Runs and trials as plain values: what the procedure reads and plans with.

A *run* is (stage, candidate, seed): one training from step 0 to the end. A *trial* is one
attempt at a run. :mod:`kdecay_search.storage` builds these from Optuna's tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

ERROR = "error"
"""Reason of a trial that failed in training."""
MEMORY = "memory"
"""Reason of a trial that failed because its device's memory was full."""
LOST = "lost"
"""Reason of a trial whose worker fell silent."""
WITHDRAWN = "withdrawn"
"""Reason of a trial that was closed because its run needed no further trial."""


class State(StrEnum):
    """What has become of a trial."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class RunKey:
    """Which run: candidates are numbered from 0 within their stage, seeds from 0."""

    stage: int
    candidate: int
    seed: int


@dataclass(frozen=True)
class Token:
    """A run to be queued: all that a worker needs, beside the study's spec."""

    key: RunKey
    earlier_ks: tuple[float, ...]
    """The terms that earlier stages kept."""
    k: float | None
    """The candidate; None leaves it to the sampler, within ``bounds``."""
    bounds: tuple[float, float]
    """Smallest and largest k of the stage's search space."""
    protected: bool = False
    """Never pruned: the k = 1 baseline."""


@dataclass(frozen=True)
class Trial:
    """One attempt at a run, as the storage holds it."""

    number: int
    token: Token
    state: State
    k: float | None
    """The candidate, once it is known."""
    error: float | None = None
    """Validation error (%) at the end of a complete run, else None."""
    epochs: int = 0
    """Epochs that were trained and reported."""
    averaged_error: float | None = None
    """Of the last reported epoch (%)."""
    reason: str | None = None
    """Why it failed: :data:`ERROR`, :data:`MEMORY`, :data:`LOST` or :data:`WITHDRAWN`."""
    message: str | None = None
    worker: str | None = None
    resumed_epochs: int = 0
    """Of ``epochs``, those that an earlier trial of the run trained."""
    trial_id: int = field(default=-1, compare=False)

    @property
    def key(self) -> RunKey:
        return self.token.key

    @property
    def open(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in (State.WAITING, State.RUNNING)
