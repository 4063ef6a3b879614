"""What came of one candidate's runs: the part of planning that looks at every single trial.

A plan is made whenever a trial ends, and then one candidate's trials have changed. The summaries
of the others are kept, so that a plan costs the same however long the study's history is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import ERROR, LOST, MEMORY, Replicates, State, Trial

MEMORY_ATTEMPTS = 2
"""A run whose device's memory is full is tried again once; it may be a smaller device's."""
LOSSES_PER_ATTEMPT = 5
"""A trial that was lost with its worker says little about its run: so many count as one error."""


@dataclass(frozen=True)
class CandidateSummary:
    """One candidate's runs on the seeds of the study."""

    point: Candidate | None
    """As a trial had it: where a sampler chose, nobody else knows it."""
    errors: Mapping[int, float]
    """Final validation error (%) of complete runs, by seed."""
    complete: int
    pruned: int
    skipped: int
    """Of the pruned: lost the race before they began."""
    failed: int
    again: frozenset[int]
    """Seeds whose attempts have failed so far: that run is to be queued again. Of …"""
    lacking: frozenset[int]
    """… seeds that need a trial."""
    open: frozenset[int]
    """Seeds whose trial is waiting or running."""
    begun: int
    """Runs that have a trial, but for those that lost the race."""
    redundant: tuple[Trial, ...]
    """Waiting and running trials of runs that another trial serves."""

    @staticmethod
    def of(trials: Sequence[Trial], seeds: range, max_attempts: int) -> CandidateSummary:
        """``seeds``: that the candidate is to run on. ``max_attempts``: errors after which a run
        is given up."""
        runs: dict[int, list[Trial]] = defaultdict(list)
        for trial in trials:
            runs[trial.key.seed].append(trial)
        serving = {seed: best for seed in seeds if (best := _serving(runs[seed]))}
        rest = frozenset(seeds) - serving.keys()
        failed = {seed for seed in rest if runs[seed] and _is_exhausted(runs[seed], max_attempts)}
        states = Counter(trial.state for trial in serving.values())
        skipped = sum(t.state == State.PRUNED and t.epochs == 0 for t in serving.values())
        is_open = (t for t in trials if t.open)
        return CandidateSummary(
            point=next((t.point for seed in seeds for t in runs[seed] if t.point), None),
            errors={seed: t.error for seed, t in serving.items() if t.error is not None},
            complete=states[State.COMPLETE],
            pruned=states[State.PRUNED],
            skipped=skipped,
            failed=len(failed),
            again=frozenset(seed for seed in rest - failed if runs[seed]),
            lacking=rest - failed,
            open=frozenset(seed for seed, t in serving.items() if t.open),
            begun=len(serving) + len(failed) - skipped,
            redundant=tuple(t for t in is_open if t is not serving.get(t.key.seed)),
        )


_accounts: WeakKeyDictionary[Replicates, dict[tuple[range, int], CandidateSummary]] = (
    WeakKeyDictionary()
)
"""Kept as long as somebody holds the trials that they are made from."""


def summary_of(trials: Replicates, seeds: range, max_attempts: int) -> CandidateSummary:
    """The summary of these trials: made once, and again when they have changed."""
    kept = _accounts.setdefault(trials, {})
    if (seeds, max_attempts) not in kept:
        kept[seeds, max_attempts] = CandidateSummary.of(trials.trials, seeds, max_attempts)
    return kept[seeds, max_attempts]


def _is_exhausted(trials: Sequence[Trial], max_attempts: int) -> bool:
    failures = Counter(trial.reason for trial in trials if trial.state == State.FAILED)
    attempts = failures[ERROR] + failures[MEMORY] + failures[LOST] / LOSSES_PER_ATTEMPT
    return attempts >= max_attempts or failures[MEMORY] >= MEMORY_ATTEMPTS


def _serving(trials: Sequence[Trial]) -> Trial | None:
    """The trial that a run stands on: a finished one, else a running, else a waiting one; the
    first of several. None if all failed."""
    if len(trials) == 1:  # nearly always
        return None if trials[0].state == State.FAILED else trials[0]
    for states in ((State.COMPLETE, State.PRUNED), (State.RUNNING,), (State.WAITING,)):
        for trial in trials:
            if trial.state in states:
                return trial
    return None
