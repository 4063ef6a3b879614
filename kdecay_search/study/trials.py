"""Runs and trials as plain data: what the search reads and plans with.

A *run* is (stage, candidate, seed): one training from step 0 to the end. A *trial* is one attempt
at a run. :mod:`kdecay_search.storage` builds these values from Optuna's tables.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from kdecay_search.study.candidate import Candidate

ERROR = "error"
"""Reason of a trial that failed in training."""
MEMORY = "memory"
"""Reason of a trial that failed because its device's memory was full."""
WRONG = "wrong"
"""Reason of a trial whose code reported what no attempt can report rightly, such as a text."""
LOST = "lost"
"""Reason of a trial that failed because its worker fell silent."""
WITHDRAWN = "withdrawn"
"""Reason of a trial that was closed unfinished because its run needed no further trial."""
RAW_ONLY = "raw"
"""Attribute of a trial that reports raw errors, because its task computes no averaged ones."""

CONFIRMATION = 0
"""Number of the confirmation among the stages, which count from 1."""
FIRST_STAGE = 1
"""Number of the first stage. It searches the learning-rate level, if the study does, and later
stages keep the level that it found."""
FIRST_SEED = 0
"""Seed on which a stage tries its candidates first."""


NO_LOOKS: Mapping[int, float] = MappingProxyType({})
"""The looks of a trial that has made no report at any."""


class State(StrEnum):
    """State of a trial.

    A *paused* trial has begun, does not run, and keeps its checkpoint. Nobody claims it until the
    plan resumes it or ends it as pruned.
    """

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class RunKey:
    """Which run of a study."""

    stage: int
    """Number of the stage, from 1; :data:`CONFIRMATION` for the confirmation."""
    candidate: int
    """Number of the candidate within its stage, from 0; in a confirmation, the schedule's place in
    :data:`kdecay_search.study.comparators.COMPARATORS`."""
    seed: int
    """Seed of the run; a search counts from 0, a confirmation from ``confirm.first_seed``."""


@dataclass(frozen=True)
class RunRequest:
    """A run to be queued: all that a worker needs besides the study's spec."""

    key: RunKey
    """The run that is asked for."""
    earlier_ks: tuple[float, ...]
    """Terms that earlier stages kept."""
    k: float | None
    """Exponent of the candidate; None leaves it to the sampler, within ``bounds``."""
    bounds: tuple[float, float]
    """Smallest and largest k of the stage's search space."""
    protected: bool = False
    """Whether the run is never pruned, because it belongs to the baseline k = 1."""
    comparator: str | None = None
    """In a confirmation, the name of the schedule to train; ``earlier_ks`` and ``k`` are then those
    that the search found."""
    lr_max: float | None = None
    """Learning-rate level of the run, if the study searches it; None leaves it to the sampler,
    among ``levels``, or to the study file."""
    levels: tuple[float, ...] = ()
    """Learning-rate levels of the stage's search space, if it has several."""
    point: Candidate | None = None
    """The whole candidate, in a study that searches whole schedules; else None."""

    @property
    def is_open(self) -> bool:
        """Whether it is left to the sampler what to try."""
        return self.k is None and self.point is None

    def chosen(self, point: Candidate) -> RunRequest:
        """The same request for a whole candidate that a sampler has proposed."""
        return replace(self, k=point.k, lr_max=point.lr_max, point=point)


@dataclass(frozen=True)
class Trial:
    """One attempt at a run, as the storage holds it."""

    number: int
    """Number of the trial in its Optuna study, from 0."""
    request: RunRequest
    """The request that the trial was queued with."""
    state: State
    """State of the trial when the storage was read."""
    k: float | None
    """Exponent of the candidate; None until a sampler has chosen it."""
    error: float | None = None
    """Error at the end of a complete run: its value, oriented so that lower is better; infinite if
    it has diverged, None in any other state."""
    epochs: int = 0
    """Number of epochs that were trained and reported."""
    averaged_error: float | None = None
    """Error of the averaged weights in the last report; None if not reported."""
    raw_error: float | None = None
    """Error of the raw weights in the last report, for a run that reports no averaged error; None
    for any other."""
    reason: str | None = None
    """Why the trial failed: :data:`ERROR`, :data:`MEMORY`, :data:`WRONG`, :data:`LOST` or
    :data:`WITHDRAWN`."""
    message: str | None = None
    """Error message of a failed trial; None if there is none."""
    worker: str | None = None
    """Name of the worker that claimed the trial last; None before the first claim."""
    resumed_epochs: int = 0
    """Number of this trial's epochs that an earlier trial of the same run trained."""
    trial_id: int = field(default=-1, compare=False)
    """Optuna's id of the trial."""
    lr_max: float | None = None
    """Learning-rate level of the run, if the study searches it; None until it is chosen."""
    worsened: bool = False
    """Whether a complete run ended with a worse value than it began with."""
    looks: Mapping[int, float] = field(default_factory=lambda: NO_LOOKS, hash=False)
    """Averaged error by the number of the report, for the reports at the study's looks
    (:attr:`kdecay_search.study.spec.StudySpec.looks`) that the trial has made, in any state: lower
    is better, and infinite where the run has diverged. Empty for a run that reports raw values."""
    repeated_epochs: int = 0
    """Number of this trial's reports that it made twice: its checkpoint was not there when it was
    claimed again, so that it began anew."""

    @property
    def diverged(self) -> bool:
        """Whether the run ended because its loss or its metric was infinite or not a number."""
        return self.error is not None and math.isinf(self.error)

    @property
    def key(self) -> RunKey:
        """The run that this trial attempts."""
        return self.request.key

    @property
    def point(self) -> Candidate | None:
        """The candidate as a point of the search space; None until a sampler has chosen it."""
        if self.request.point is not None:
            return self.request.point
        return None if self.k is None else Candidate(self.k, self.lr_max)

    @property
    def candidate_key(self) -> CandidateKey:
        """Which candidate of the whole study this trial tries."""
        return key_of(self.request)

    @property
    def open(self) -> bool:
        """Whether the trial is waiting or running."""
        return self.state in (State.WAITING, State.RUNNING)


class CandidateKey(NamedTuple):
    """Which candidate, of all that a study ever tried."""

    stage: int
    """Number of the stage, from 1; :data:`CONFIRMATION` for the confirmation."""
    earlier_ks: tuple[float, ...]
    """Terms that earlier stages had kept when the candidate was tried."""
    candidate: int
    """Number of the candidate within its stage, from 0."""
    lr_max: float | None = None
    """Learning-rate level that a later stage builds on or that a confirmation requests; None in
    stage 1, and where the level is not searched."""
    base: Candidate | None = None
    """In a study that searches whole schedules: what a later stage builds on, or what a
    confirmation requests; None in stage 1."""


def key_of(request: RunRequest) -> CandidateKey:
    """Which candidate of the whole study a run tries."""
    key, base, lr_max = request.key, request.point, request.lr_max
    if key.stage == FIRST_STAGE:
        return CandidateKey(key.stage, request.earlier_ks, key.candidate)
    if base is not None:
        base, lr_max = (base if key.stage == CONFIRMATION else base.without_term()), None
    return CandidateKey(key.stage, request.earlier_ks, key.candidate, lr_max, base)


@dataclass(frozen=True, eq=False)
class CandidateTrials:
    """All trials of one candidate, on all of its seeds.

    Two of these are equal only if they are the same object. What is derived from one may therefore
    be kept for as long as the object is the same, without another look at the trials.
    """

    trials: tuple[Trial, ...]
    """The trials in the order of their numbers."""

    @cached_property
    def has_failures(self) -> bool:
        """Whether an attempt has failed; those that were withdrawn have not."""
        return any(t.state == State.FAILED and t.reason != WITHDRAWN for t in self.trials)

    def of_id(self, trial_id: int) -> Trial | None:
        """The trial with this id of Optuna's; None if it is none of these."""
        return next((trial for trial in self.trials if trial.trial_id == trial_id), None)

    def updated(self, changed: Iterable[Trial]) -> CandidateTrials:
        """A copy with these trials added, or in place of their earlier versions."""
        known = {(t.number, t.trial_id): t for t in (*self.trials, *changed)}
        return CandidateTrials(tuple(known[key] for key in sorted(known)))


class Trials(Collection[Trial]):
    """All trials of a study, grouped by candidate.

    Iteration goes stage by stage, the confirmation last, in the order of the trials' numbers.
    """

    def __init__(self, by_candidate: Mapping[CandidateKey, CandidateTrials]) -> None:
        self.by_candidate = by_candidate

    @staticmethod
    def of(trials: Iterable[Trial]) -> Trials:
        """Group ``trials``, which may come in any order."""
        groups: dict[CandidateKey, list[Trial]] = defaultdict(list)
        for trial in trials:
            groups[trial.candidate_key].append(trial)
        return Trials({key: CandidateTrials(()).updated(group) for key, group in groups.items()})

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._in_order)

    def __len__(self) -> int:
        return sum(len(group.trials) for group in self.by_candidate.values())

    def __contains__(self, trial: object) -> bool:
        return trial in self._in_order

    @cached_property
    def _in_order(self) -> tuple[Trial, ...]:
        trials = (trial for group in self.by_candidate.values() for trial in group.trials)
        return tuple(
            sorted(trials, key=lambda t: (t.key.stage == CONFIRMATION, t.key.stage, t.number))
        )
