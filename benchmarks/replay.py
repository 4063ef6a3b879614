"""A study on recorded curves, in simulated asynchronous time.

The procedure is the real one: :func:`kdecay_search.search.make_plan` says which runs to queue
and to skip, and which k was found. Workers take runs from the queue and finish an epoch at a time,
each at its own speed; a policy says after every epoch whether the run ends there.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from benchmarks.curves import Curves
from kdecay_search.search import Memo, Plan, Progress, Stage, make_plan
from kdecay_search.search.policy import POLICY
from kdecay_search.search.policy import Policy as Constants
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunRequest, State, Trial

SPEED_SPREAD = 0.25
"""Standard deviation, over the workers, of the logarithm of their speed."""
JITTER = 0.05
"""Standard deviation of an epoch's time on one worker, as a share of it."""
LATEST_START = 0.1
"""Workers join at random within this share of a training."""


@dataclass(frozen=True)
class Scenario:
    """What chance decides: the same for every policy."""

    seeds: tuple[int, ...]
    """Recorded seeds in the order in which the study uses them."""
    workers: int
    key: tuple[int, ...]
    """Of the random numbers for speeds and times."""


@dataclass
class Job:
    """A run that was started."""

    request: RunRequest
    raw: Sequence[float]
    """Validation error (%) after each epoch, to the end of training."""
    averaged: Sequence[float]
    """The same for averaged weights."""
    epochs: int = 0
    """Done so far."""
    ended: bool = False
    pruned: bool = False

    @property
    def point(self) -> Candidate:
        assert self.request.k is not None
        return Candidate(self.request.k, self.request.lr_max)


class Judge(Protocol):
    """A pruning policy during one replay."""

    def start(self, job: Job) -> None: ...

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        """Whether the job, which has just done an epoch and has more to do, should end.
        ``trials``: all of the study, waiting ones included."""
        ...

    def end(self, job: Job) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What one replay came to."""

    column: int
    """Of the chosen candidate."""
    claims: bool
    """Whether ``status`` would call it better than the original."""
    epochs: int
    """Trained, of all runs."""
    complete: int
    pruned: frozenset[int]
    """Columns of candidates with a run that was started and pruned."""
    skipped: frozenset[int]
    """Columns of candidates with a run that lost the race before it began."""
    runs: int
    """That ended, one way or another."""
    probability: float
    """Of the chosen candidate to be the best."""
    baseline: int
    """Column of k = 1, at the level that was chosen for it where several were tried."""
    baseline_runs: int
    """Complete runs of k = 1, at any level."""


def study_spec(curves: Curves, seeds: int, prunes: bool) -> StudySpec:
    """The study whose candidates are the file's, and whose grid cannot grow."""
    ks = list(study_ks(curves))
    table = {
        "name": "replay",
        "task": {"kind": "simulated", "epochs": curves.epochs},
        "search": {"ks": ks, "k_min": ks[0], "k_max": ks[-1], "k_cap": ks[-1], "k_step": ks[-1]}
        | {"seeds": seeds, "max_terms": 1},
        "pruning": {"enabled": prunes},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def study_ks(curves: Curves) -> tuple[float, ...]:
    """The file's ks. Without k = 1, the baseline, they are scaled to begin with it: only
    differences of log k matter to the smooth curve."""
    return curves.ks if 1.0 in curves.ks else tuple(k / curves.ks[0] for k in curves.ks)


class Replay:
    """One study, from its first run to its last.

    ``points``: what the curves' columns belong to, if that is more than their ks. ``constants``:
    those of the search.
    """

    def __init__(
        self,
        curves: Curves,
        scenario: Scenario,
        spec: StudySpec,
        judge: Judge,
        points: Sequence[Candidate] | None = None,
        constants: Constants = POLICY,
    ) -> None:
        self._constants, self._memo = constants, Memo()
        self._curves, self._scenario, self._spec, self._judge = curves, scenario, spec, judge
        columns = enumerate(points or map(Candidate, study_ks(curves)))
        self._column: dict[Candidate | None, int] = {point: column for column, point in columns}
        self._random = np.random.default_rng(scenario.key)
        self._pace = np.exp(SPEED_SPREAD * self._random.standard_normal(scenario.workers)).tolist()
        self._trials: list[Trial] = []
        self._waiting: deque[int] = deque()
        self._changed = True
        self._plan: Plan | None = None
        self._events: list[tuple[float, int, int]] = []
        self._jobs: dict[int, tuple[int, Job]] = {}

    def run(self) -> Outcome:
        idle: list[int] = []
        starts = self._random.uniform(0, LATEST_START * self._curves.epochs, len(self._pace))
        for worker, time in enumerate(starts.tolist()):
            heapq.heappush(self._events, (time, -1, worker))
        while self._events:
            time, _, worker = heapq.heappop(self._events)
            if worker in self._jobs and not self._epoch(worker):
                self._push(time, worker)
                continue
            idle.append(worker)
            while idle and self._take(idle[0]):
                self._push(time, idle.pop(0))
        return self._outcome()

    def _push(self, time: float, worker: int) -> None:
        took = self._pace[worker] * max(0.1, 1 + JITTER * self._random.standard_normal())
        heapq.heappush(self._events, (time + took, len(self._trials), worker))

    def _epoch(self, worker: int) -> bool:
        """The worker's job does an epoch; return whether that was its last."""
        number, job = self._jobs[worker]
        job.epochs += 1
        if job.epochs == self._curves.epochs:
            job.ended = True
        elif self._judge.should_stop(job, self._trials):
            job.ended = job.pruned = True
        if job.ended:
            del self._jobs[worker]
            self._judge.end(job)
            self._trials[number] = replace(
                self._trials[number],
                state=State.PRUNED if job.pruned else State.COMPLETE,
                error=None if job.pruned else float(job.raw[-1]),
                epochs=job.epochs,
            )
            self._changed = True
        return job.ended

    def _take(self, worker: int) -> bool:
        """Give the worker a run, if there is one."""
        if not self._waiting:
            self._reconcile()
        if not self._waiting:
            return False
        number = self._waiting.popleft()
        waiting = self._trials[number]
        column = self._column[waiting.point]
        seed = self._scenario.seeds[waiting.key.seed]
        job = Job(
            waiting.request,
            self._curves.raw[seed, :, column].tolist(),
            self._curves.averaged[seed, :, column].tolist(),
        )
        self._trials[number] = replace(waiting, state=State.RUNNING)
        self._jobs[worker] = (number, job)
        self._judge.start(job)
        return True

    def _reconcile(self) -> None:
        """Apply the plan, as :mod:`kdecay_search.reconcile` does, until it queues a run."""
        while self._changed and not self._waiting:
            self._plan = plan = make_plan(self._spec, self._trials, self._memo, self._constants)
            for request in plan.enqueue:
                self._waiting.append(self._add(request, State.WAITING))
            for request in plan.skip:
                self._add(request, State.PRUNED)
            self._changed = bool(plan.skip)

    def _add(self, request: RunRequest, state: State) -> int:
        number = len(self._trials)
        self._trials.append(
            Trial(number, request, state, request.k, trial_id=number, lr_max=request.lr_max)
        )
        return number

    def _outcome(self) -> Outcome:
        stage = self._plan.stages[0] if self._plan else None
        if (
            self._plan is None
            or stage is None
            or stage.progress != Progress.DONE
            or stage.best is None
        ):
            raise RuntimeError(f"the replay ended before the study did: {self._scenario}")
        base = self._plan.baseline
        started = [t for t in self._trials if t.epochs]
        pruned = [t for t in self._trials if t.state == State.PRUNED]
        return Outcome(
            column=self._column[stage.best.point],
            claims=_claims(stage),
            epochs=sum(t.epochs for t in started),
            complete=sum(t.state == State.COMPLETE for t in self._trials),
            pruned=frozenset(self._column[t.point] for t in pruned if t.epochs),
            skipped=frozenset(self._column[t.point] for t in pruned if not t.epochs),
            runs=len(self._trials),
            probability=stage.candidates[stage.best.index].probability or 0.0,
            baseline=self._column[Candidate(*base.ks, base.lr_max)],
            baseline_runs=sum(len(c.errors) for c in stage.candidates if c.k == base.ks[0]),
        )


def _claims(stage: Stage) -> bool:
    """Whether ``kdecay status`` says "better" rather than "no detectable difference"."""
    smooth = stage.smooth_gain
    return stage.kept and smooth is not None and smooth.is_sure
