"""Runs and trials as plain values: what the procedure reads and plans with.

A *run* is (stage, candidate, seed): one training from step 0 to the end. A *trial* is one
attempt at a run. :mod:`kdecay_search.storage` builds these from Optuna's tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from kdecay_search.study.candidate import Candidate

ERROR = "error"
"""Reason of a trial that failed in training."""
MEMORY = "memory"
"""Reason of a trial that failed because its device's memory was full."""
LOST = "lost"
"""Reason of a trial whose worker fell silent."""
WITHDRAWN = "withdrawn"
"""Reason of a trial that was closed because its run needed no further trial."""
RAW = "raw"
"""Attribute of a trial that reports the raw error, since its task knows no averaged one."""

CONFIRMATION = 0
"""Number that stands for the confirmation where stages are numbered; those count from 1."""
FIRST_STAGE = 1
"""Where the level of the LR is searched, if it is: later stages take what this one found."""


class State(StrEnum):
    """What has become of a trial."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class RunKey:
    """Which run: candidates are numbered from 0 within their stage, seeds from 0. A confirmation's
    candidates are its schedules (:mod:`kdecay_search.study.comparators`), and its seeds are its own."""

    stage: int
    candidate: int
    seed: int


@dataclass(frozen=True)
class RunRequest:
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
    comparator: str | None = None
    """In a confirmation, the name of the schedule to train; its terms are then the found ones."""
    lr_max: float | None = None
    """The level of the LR, where it is searched: of a candidate of stage 1, of what later stages
    build on, or of what a confirmation's schedule is made from. None leaves it to the sampler,
    among ``levels``, or to the study file."""
    levels: tuple[float, ...] = ()
    """The levels of the stage's search space, if it has several."""


@dataclass(frozen=True)
class Trial:
    """One attempt at a run, as the storage holds it."""

    number: int
    request: RunRequest
    state: State
    k: float | None
    """The candidate, once it is known."""
    error: float | None = None
    """Validation error (%) at the end of a complete run, else None."""
    epochs: int = 0
    """Epochs that were trained and reported."""
    averaged_error: float | None = None
    """Of the last reported epoch (%)."""
    raw_error: float | None = None
    """The same of a run that reports no averaged error."""
    reason: str | None = None
    """Why it failed: :data:`ERROR`, :data:`MEMORY`, :data:`LOST` or :data:`WITHDRAWN`."""
    message: str | None = None
    worker: str | None = None
    resumed_epochs: int = 0
    """Of ``epochs``, those that an earlier trial of the run trained."""
    trial_id: int = field(default=-1, compare=False)
    lr_max: float | None = None
    """The level of the LR, where it is searched, once it is known."""

    @property
    def key(self) -> RunKey:
        return self.request.key

    @property
    def point(self) -> Candidate | None:
        """The candidate, once it is known."""
        return None if self.k is None else Candidate(self.k, self.lr_max)

    @property
    def candidate_key(self) -> CandidateKey:
        request, key = self.request, self.request.key
        lr_max = None if key.stage == FIRST_STAGE else request.lr_max
        return CandidateKey(key.stage, request.earlier_ks, key.candidate, lr_max)

    @property
    def open(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in (State.WAITING, State.RUNNING)


class CandidateKey(NamedTuple):
    """Which candidate, of everything that a study ever tried."""

    stage: int
    earlier_ks: tuple[float, ...]
    """The terms that earlier stages kept …"""
    candidate: int
    lr_max: float | None = None
    """… and the level that the first found, where it is searched; of a confirmation, the request's.
    None in stage 1."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """All trials of one candidate, by number.

    Two of these are equal only if they are the same object: whoever derives something from it may
    keep that, and need not look at the trials again.
    """

    trials: tuple[Trial, ...]

    def updated(self, changed: Iterable[Trial]) -> Replicates:
        """With these trials added, or put in place of their earlier selves."""
        known = {(t.number, t.trial_id): t for t in (*self.trials, *changed)}
        return Replicates(tuple(known[key] for key in sorted(known)))


class Trials(Collection[Trial]):
    """The trials of a study, grouped by candidate."""

    def __init__(self, groups: Mapping[CandidateKey, Replicates]) -> None:
        self.groups = groups

    @staticmethod
    def of(trials: Iterable[Trial]) -> Trials:
        groups: dict[CandidateKey, list[Trial]] = defaultdict(list)
        for trial in trials:
            groups[trial.candidate_key].append(trial)
        return Trials({key: Replicates(()).updated(group) for key, group in groups.items()})

    def __iter__(self) -> Iterator[Trial]:
        """Stage by stage, the confirmation last, in the order of their numbers."""
        return iter(self._in_order)

    def __len__(self) -> int:
        return sum(len(group.trials) for group in self.groups.values())

    def __contains__(self, trial: object) -> bool:
        return trial in self._in_order

    @cached_property
    def _in_order(self) -> tuple[Trial, ...]:
        trials = (trial for group in self.groups.values() for trial in group.trials)
        return tuple(sorted(trials, key=_place))


def _place(trial: Trial) -> tuple[bool, int, int]:
    return (trial.key.stage == CONFIRMATION, trial.key.stage, trial.number)
