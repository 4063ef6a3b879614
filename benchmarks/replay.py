"""Replay a study on recorded curves, in simulated asynchronous time.

The procedure is the real one: :func:`kdecay_search.search.make_plan` decides which runs to queue
to resume and to skip, and which k is found. Workers take runs from the queue and finish one epoch
after another, each at its own speed. After every epoch a policy decides whether the run ends there,
or is paused, so that its worker takes another.
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
"""Standard deviation of an epoch's time on one worker, as a share of that time."""
LATEST_START = 0.1
"""Share of a training within which workers start, at random."""


@dataclass(frozen=True)
class Scenario:
    """What is drawn at random, the same for every policy."""

    seeds: tuple[int, ...]
    """Recorded seeds, in the order in which the study uses them."""
    workers: int
    """Number of workers."""
    key: tuple[int, ...]
    """Seed of the random numbers for speeds and times."""


@dataclass
class Job:
    """A run that was started."""

    request: RunRequest
    """The run."""
    raw: Sequence[float]
    """Validation error (%) after each epoch, to the end of the training."""
    averaged: Sequence[float]
    """Validation error (%) of the averaged weights after each epoch, to the end of the training."""
    epochs: int = 0
    """Number of epochs that are finished."""
    ended: bool = False
    """Whether the run has ended."""
    pruned: bool = False
    """Whether the run was ended early."""
    number: int = -1
    """Number of the run's trial."""

    @property
    def point(self) -> Candidate:
        """The candidate of the run."""
        assert self.request.k is not None
        return Candidate(self.request.k, self.request.lr_max)


class Judge(Protocol):
    """A pruning policy during one replay."""

    pauses: bool
    """Whether a run that should stop is paused, and may be resumed. Else it has ended."""

    def start(self, job: Job) -> None:
        """Note that a run starts."""
        ...

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        """Whether a run that has finished an epoch, but not its last, should end.

        Args:
            job: The run.
            trials: All trials of the study, including waiting ones.
        """
        ...

    def end(self, job: Job) -> None:
        """Note that a run has ended."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The result of one replay."""

    column: int
    """Column of the chosen candidate."""
    claims: bool
    """Whether ``status`` would say that it is better than the original."""
    epochs: int
    """Number of epochs trained, of all runs."""
    complete: int
    """Number of complete runs."""
    pruned: frozenset[int]
    """Columns of the candidates with a run that was started and ended early."""
    skipped: frozenset[int]
    """Columns of the candidates with a run that was never started."""
    runs: int
    """Number of all runs: complete, pruned and skipped."""
    probability: float
    """Stated probability that the chosen candidate is the best."""
    baseline: int
    """Column of k = 1; where several levels were tried, at the one that was chosen for it."""
    baseline_runs: int
    """Number of complete runs of k = 1, at any level."""


def study_spec(curves: Curves, seeds: int, prunes: bool) -> StudySpec:
    """A study with the candidates of a file, whose grid cannot grow.

    Args:
        curves: The recorded curves.
        seeds: Number of seeds of the study.
        prunes: Whether the study has ``pruning.enabled``.
    """
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
    """The ks of a file. Without the baseline k = 1 they are scaled to begin with it, since only
    differences of log k matter to the smooth curve."""
    return curves.ks if 1.0 in curves.ks else tuple(k / curves.ks[0] for k in curves.ks)


class Replay:
    """One study, from its first run to its last."""

    def __init__(
        self,
        curves: Curves,
        scenario: Scenario,
        spec: StudySpec,
        judge: Judge,
        points: Sequence[Candidate] | None = None,
        constants: Constants = POLICY,
    ) -> None:
        """
        Args:
            curves: The recorded curves.
            scenario: What is drawn at random.
            spec: The study.
            judge: The pruning policy.
            points: The candidate of each column of the curves; None if they differ in k only.
            constants: The constants of the search.
        """
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
        self._jobs: dict[int, Job] = {}
        self._paused: dict[int, Job] = {}

    def run(self) -> Outcome:
        """Replay the study to its end."""
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
        """Finish an epoch of the worker's run; return whether the worker is free then."""
        job = self._jobs[worker]
        job.epochs += 1
        trial = self._trials[job.number]
        if self._judge.pauses and job.epochs in self._spec.looks:
            looks = {**trial.looks, job.epochs: job.averaged[job.epochs - 1]}
            trial = replace(trial, looks=looks, epochs=job.epochs)
            self._trials[job.number] = trial
        if job.epochs == self._curves.epochs:
            job.ended = True
            trial = replace(trial, state=State.COMPLETE, error=float(job.raw[-1]))
        elif not self._judge.should_stop(job, self._trials):
            return False
        elif self._judge.pauses:
            self._paused[job.number] = job
            trial = replace(trial, state=State.PAUSED)
        else:
            job.ended = job.pruned = True
            trial = replace(trial, state=State.PRUNED)
        del self._jobs[worker]
        if job.ended:
            self._judge.end(job)
        self._trials[job.number] = replace(trial, epochs=job.epochs)
        self._changed = True
        return True

    def _take(self, worker: int) -> bool:
        """Give the worker a run; return whether there was one."""
        if not self._waiting:
            self._reconcile()
        if not self._waiting:
            return False
        number = self._waiting.popleft()
        waiting = self._trials[number]
        self._trials[number] = replace(waiting, state=State.RUNNING)
        if number in self._paused:
            self._jobs[worker] = self._paused.pop(number)
            return True
        column = self._column[waiting.point]
        seed = self._scenario.seeds[waiting.key.seed]
        job = Job(
            waiting.request,
            self._curves.raw[seed, :, column].tolist(),
            self._curves.averaged[seed, :, column].tolist(),
            number=number,
        )
        self._jobs[worker] = job
        self._judge.start(job)
        return True

    def _reconcile(self) -> None:
        """Apply the plan, as :mod:`kdecay_search.reconcile` does, until it queues a run."""
        while self._changed and not self._waiting:
            self._plan = plan = make_plan(self._spec, self._trials, self._memo, self._constants)
            for trial in plan.close:
                self._trials[trial.number] = replace(trial, state=State.PRUNED)
            for trial in plan.resume:
                self._trials[trial.number] = replace(trial, state=State.WAITING)
                self._waiting.append(trial.number)
            for request in plan.enqueue:
                self._waiting.append(self._add(request, State.WAITING))
            for request in plan.skip:
                self._add(request, State.PRUNED)
            self._changed = bool(plan.skip or plan.close)

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
    """Whether the verdict of ``kdecay status`` is "better"."""
    smooth = stage.smooth_gain
    return stage.kept and smooth is not None and smooth.is_sure
