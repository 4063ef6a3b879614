"""The trials of a study in this process's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from kdecay_search.study.trials import (
    WITHDRAWN,
    CandidateTrials,
    RunRequest,
    State,
    Trial,
    Trials,
)
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch


class MemoryStore:
    """Keeps the trials of one study: a :class:`~kdecay_search.search.store.Store`.

    The trials are equal to those that Postgres would hold of the same runs, and are trained in the
    same order.
    """

    def __init__(self) -> None:
        self.trials = Trials({})
        """All trials."""
        self.curves: dict[int, Sequence[Epoch]] = {}
        """The reports of each trial that has begun, by its id."""
        self.seconds: dict[int, float] = {}
        """How long each ended trial has trained, by its id."""
        self.checkpoints: dict[int, MemoryCheckpoint] = {}
        """What is kept of each trial that may be paused, by its id."""
        self._waiting: dict[int, Trial] = {}
        self._next_number: Counter[int] = Counter()
        self._stages: list[int] = []
        self._count = 0

    def withdraw(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.put(replace(trial, state=State.FAILED, reason=WITHDRAWN))

    def enqueue(self, requests: Sequence[RunRequest]) -> None:
        self._add(requests, State.WAITING)

    def skip(self, requests: Sequence[RunRequest]) -> None:
        self._add(requests, State.PRUNED)

    def resume(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.put(replace(trial, state=State.WAITING))

    def close(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.put(replace(trial, state=State.PRUNED))
            self.checkpoints.pop(trial.trial_id, None)

    def put(self, trial: Trial) -> None:
        """Keep a trial in place of its earlier version."""
        if trial.state == State.WAITING:
            self._waiting[trial.trial_id] = trial
        else:
            self._waiting.pop(trial.trial_id, None)
        known, key = dict(self.trials.by_candidate), trial.candidate_key
        known[key] = known.get(key, CandidateTrials(())).updated([trial])
        self.trials = Trials(known)

    def next_waiting(self) -> Trial | None:
        """The trial that is trained next; None if none is waiting.

        Those whose candidate is known come first, so that a sampler that still has to choose the
        others knows as many results as possible.
        """
        return min(
            self._waiting.values(),
            key=lambda t: (t.request.is_open, self._stages.index(t.key.stage), t.number),
            default=None,
        )

    def _add(self, requests: Sequence[RunRequest], state: State) -> None:
        for request in requests:
            stage = request.key.stage
            if stage not in self._stages:
                self._stages.append(stage)
            self.put(
                Trial(
                    number=self._next_number[stage],
                    request=request,
                    state=state,
                    k=request.k,
                    trial_id=self._count,
                    lr_max=request.lr_max,
                )
            )
            self._next_number[stage] += 1
            self._count += 1


class MemoryCheckpoint(Checkpoint):
    """The state of one run in this process's memory, while it is paused."""

    def __init__(self) -> None:
        self.has_failed = False
        self._payload: bytes | None = None
        self._scratch: TemporaryDirectory[str] | None = None

    @property
    def exists(self) -> bool:
        return self._payload is not None

    @property
    def is_due(self) -> bool:
        return False

    def make_folder(self) -> Path:
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="kdecay-run-", ignore_cleanup_errors=True)
        return Path(self._scratch.name)

    def write(self, payload: bytes) -> None:
        self._payload = payload

    def read(self) -> bytes | None:
        return self._payload

    def set_aside(self, reason: str) -> None:
        self._payload = None

    def remove(self) -> None:
        self._payload = None
