"""Which machines bring runs to an end, and which fail every run that they take.

A run that fails may be at fault itself, or the machine that took it may be: its disk is full, its
GPU is broken, a data set is not mounted. What the machine's other runs and the other machines' runs
have come to tells the two apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.study.trials import ERROR, MEMORY, CandidateTrials, State, Trial


def machine_of(worker: str) -> str:
    """Return the host in a worker's name, which begins with it (:mod:`kdecay_search.worker.names`).

    Containers of one host name count as one machine.
    """
    return worker.partition(":")[0]


@dataclass(frozen=True)
class FailingPlace:
    """A machine, or a single worker of a machine that works otherwise, that fails every run."""

    name: str
    """The machine's name or, if its other workers train, that of the worker."""
    failures: Sequence[Trial]
    """The failed attempts since the last one with a result, the oldest first."""


@dataclass(frozen=True)
class Machines:
    """What a study's trials say about the machines that took them."""

    failing: frozenset[str] = frozenset()
    """Names of the machines and of the workers that fail every run."""
    at_work: frozenset[str] = frozenset()
    """Names of the other workers that train a run or have brought one to an end."""
    training: frozenset[str] = frozenset()
    """Names of those in :attr:`at_work` that train a run now."""

    @staticmethod
    def of_groups(groups: Iterable[CandidateTrials], policy: Policy = POLICY) -> Machines:
        """What the trials of these candidates say; nothing, which is all that planning needs to
        know, if none has failed."""
        known = list(groups)
        if not any(group.has_failures for group in known):
            return NO_MACHINES
        return Machines.of([trial for group in known for trial in group.trials], policy)

    @staticmethod
    def of(trials: Iterable[Trial], policy: Policy = POLICY) -> Machines:
        """What these trials say about the machines that took them."""
        known = list(trials)
        failing = frozenset(place.name for place in failing_places(known, policy))
        running = {t.worker for t in known if t.worker and t.state == State.RUNNING}
        good = running | {t.worker for t in known if t.worker and _has_result(t)}
        at_work = frozenset(w for w in good if not failing & {w, machine_of(w)})
        return Machines(failing, at_work, at_work & running)

    def place_of(self, worker: str) -> str:
        """Where a failure of this worker happened: its machine or, if that works, the worker."""
        is_alone = worker in self.failing and machine_of(worker) not in self.failing
        return worker if is_alone else machine_of(worker)


NO_MACHINES = Machines()
"""Nothing is known."""


def attempts(weights: Mapping[str, float], machines: Machines, policy: Policy = POLICY) -> float:
    """How many attempts a run's failures count as.

    While machines are at work on which the run has not failed, the failures on one machine count
    as one, those on machines that fail every run as none, and a run that has failed on a single
    machine is not given up. If those machines train nothing now, which may mean that they have
    left, ``policy.repeats_per_attempt`` failures of any kind count as one nevertheless.

    Args:
        weights: The failures by the worker that they happened on, in attempts.
        machines: What is known of the machines of the stage.
        policy: Its constants for failures are used.
    """
    by_place: dict[str, float] = defaultdict(float)
    for worker, weight in weights.items():
        by_place[machines.place_of(worker)] += weight
    total = sum(weights.values())
    helpers = {w for w in machines.at_work if machine_of(w) not in by_place}
    if not helpers:
        return total
    counted = [min(1.0, each) for name, each in by_place.items() if name not in machines.failing]
    on_machines = sum(counted) if len(counted) > 1 else 0.0
    if helpers & machines.training:
        return on_machines
    return max(on_machines, total / policy.repeats_per_attempt)


def failing_places(trials: Iterable[Trial], policy: Policy = POLICY) -> list[FailingPlace]:
    """The machines whose attempts have all failed lately, whatever the run.

    Lately means since the last attempt with a result, and at least ``policy.failing_streak``
    attempts at two runs or more. Of a machine with other workers that do not fail, the worker is
    named instead. Trials that were lost with their worker say nothing about a machine.
    """
    by_machine: dict[str, list[Trial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: (t.trial_id, t.number)):
        if trial.worker and (_has_result(trial) or _is_failure(trial)):
            by_machine[machine_of(trial.worker)].append(trial)
    found = []
    for machine, of_machine in by_machine.items():
        streak = _streak(of_machine, policy)
        if streak:
            found.append(FailingPlace(machine, streak))
            continue
        by_worker: dict[str, list[Trial]] = defaultdict(list)
        for trial in of_machine:
            by_worker[trial.worker or ""].append(trial)
        streaks = {worker: _streak(ended, policy) for worker, ended in by_worker.items()}
        found += [FailingPlace(worker, streak) for worker, streak in streaks.items() if streak]
    return found


def _is_failure(trial: Trial) -> bool:
    """Whether the trial failed in training, rather than being lost with its worker."""
    return trial.state == State.FAILED and trial.reason in (ERROR, MEMORY)


def _has_result(trial: Trial) -> bool:
    is_pruned = trial.state == State.PRUNED and trial.epochs > 0
    return trial.state == State.COMPLETE or is_pruned


def _streak(ended: Sequence[Trial], policy: Policy) -> list[Trial]:
    """The failures since the last result; none if they are too few, or all of one run."""
    since = next((i for i in range(len(ended), 0, -1) if _has_result(ended[i - 1])), 0)
    streak = list(ended[since:])
    runs = {(trial.candidate_key, trial.key.seed) for trial in streak}
    return streak if len(streak) >= policy.failing_streak and len(runs) > 1 else []
