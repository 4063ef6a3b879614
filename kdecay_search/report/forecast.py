"""How long a study still takes, by the time that its epochs or steps took so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kdecay_search.report.cost import duration, seconds_per_run
from kdecay_search.report.names import counted
from kdecay_search.search import Progress
from kdecay_search.search.allocation import batch_size, joint_batch_size
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.comparators import comparators_of
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION


@dataclass(frozen=True)
class Forecast:
    """How long a study still takes at most, in trainings of full length and in seconds."""

    workers: int
    """Number of workers."""
    queued: float
    """Trainings of the search that may all run at once: those of runs that have begun, wait, or are
    to be queued now."""
    later: float
    """Trainings of the search that are chosen when results are known, at most."""
    at_once: int
    """How many of the later ones are chosen together."""
    confirmation: int
    """Trainings of the confirmation."""
    seconds_per_run: float | None
    """Device-seconds of a training; None if none has been timed."""
    is_partial: bool
    """Whether the search for further terms may follow, which is not included."""

    @property
    def seconds(self) -> float | None:
        """Seconds until the study ends; None if no run has been timed."""
        if self.seconds_per_run is None:
            return None
        busy = min(self.workers, self.at_once)
        rounds = _rounds(self.queued, self.workers) + _rounds(self.later, busy)
        return (rounds + _rounds(self.confirmation, self.workers)) * self.seconds_per_run

    @property
    def sentence(self) -> str:
        """The forecast in a few sentences."""
        left = self.queued + self.later
        parts = [f"{left:.3g} trainings of the search"] if left else []
        if self.confirmation:
            parts.append(f"{self.confirmation:,} of the confirmation")
        if not parts:
            return "Nothing is left to be trained."
        text = f"At most {' and '.join(parts)} are left"
        if self.seconds is None or self.seconds_per_run is None:
            return f"{text}. How long they take is known once a run has been timed."
        on, each = counted(self.workers, "worker"), duration(max(1.0, self.seconds_per_run))
        text += f": about {duration(max(1.0, self.seconds))} on {on}, at {each} a training"
        text += " (by its runs so far)."
        if self.is_partial:
            text += " The search for further terms may follow."
        if self.later and self.workers > self.at_once:
            text += (
                f" After the first results, at most {self.at_once} runs are chosen together: more "
                "workers do not make the search faster."
            )
        return text


def forecast(
    snapshot: StudySnapshot,
    seconds: Mapping[int, float],
    workers: int,
    policy: Policy = POLICY,
) -> Forecast:
    """How long a study still takes on some workers.

    Args:
        snapshot: The study; without trials, if it has not been launched.
        seconds: Measured seconds by trial id, as ``storage.durations.read_durations`` reads them.
        workers: Number of workers, each on a device of its own.
        policy: Its constants for how many runs are chosen together are used.
    """
    spec, plan = snapshot.spec, snapshot.plan
    length, last = spec.task.length, plan.stages[-1]
    of_search = [t for t in snapshot.attempts if t.open and t.key.stage != CONFIRMATION]
    done = sum(length.position(trial.epochs) / length.total for trial in of_search)
    queued = len(of_search) + sum(r.key.stage != CONFIRMATION for r in plan.enqueue) - done
    is_searching = last.progress == Progress.RUNNING
    if not is_searching:
        later = 0.0
    elif snapshot.is_joint:
        later = spec.search.budget - plan.spent - (queued + done - len(of_search))
    else:
        later = last.to_go - len(of_search) - sum(r.key.stage == last.n for r in plan.enqueue)
    return Forecast(
        workers=workers,
        queued=queued,
        later=max(0.0, later),
        at_once=_at_once(snapshot, policy),
        confirmation=_confirmation_runs(snapshot),
        seconds_per_run=seconds_per_run(snapshot, seconds),
        is_partial=is_searching and not snapshot.is_joint and last.n < spec.search.max_terms,
    )


def unlaunched(spec: StudySpec) -> StudySnapshot:
    """A study that has not been launched."""
    return StudySnapshot(spec, (), stopped=False)


def _rounds(runs: float, workers: int) -> float:
    """How long some runs take on some workers, in trainings: a run is trained by one of them."""
    return max(runs / workers, min(1.0, runs)) if runs <= workers else math.ceil(runs / workers)


def _at_once(snapshot: StudySnapshot, policy: Policy) -> int:
    """How many runs are chosen together once there are results."""
    if snapshot.is_joint:
        return joint_batch_size(snapshot.spec.search.budget, policy)
    if not snapshot.spec.pruning.enabled:
        return MANY
    return batch_size(len(snapshot.plan.stages[-1].candidates), policy)


MANY = 1_000_000
"""Runs that are chosen together where all are known in advance."""


def _confirmation_runs(snapshot: StudySnapshot) -> int:
    """How many trainings of the confirmation are left."""
    spec, confirmation = snapshot.spec, snapshot.plan.confirmation
    if confirmation is not None:
        return sum(row.unfinished for row in confirmation.rows)
    if not spec.confirm.seeds or snapshot.plan.progress in (Progress.DONE, Progress.FAILED):
        return 0
    schedules = len(comparators_of(spec))
    if snapshot.is_joint:
        schedules = 2 + len(spec.schedule_space().baselines)
    return schedules * spec.confirm.seeds
