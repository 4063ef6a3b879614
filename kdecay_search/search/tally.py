"""The tally of one candidate's trials: the only part of planning that looks at single trials.

A plan is made whenever a trial ends, and by then one candidate's trials have changed. A caller that
plans again and again keeps a :class:`Memo`, which holds the summaries of the others, so that a plan
costs the same however long the study's history is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from kdecay_search.search.forecast import outlook
from kdecay_search.search.looks import Looks, look_rows
from kdecay_search.search.machines import NO_MACHINES, Machines, attempts
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array, Results
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import ERROR, LOST, MEMORY, WRONG, CandidateTrials, State, Trial

_SURROGATES_KEPT = 8
_SUMMARIES_KEPT = 4
_ROUNDING = 1e-9
"""Attempts by which a sum of fractions may be off."""


@dataclass(frozen=True)
class CandidateSummary:
    """What came of one candidate's runs on the seeds of the study."""

    point: Candidate | None
    """The candidate as a trial states it, which is where a sampler's choice is recorded; None if no
    trial does."""
    errors: Mapping[int, float]
    """Error of complete runs that have not diverged, by seed; lower is better."""
    diverged: frozenset[int]
    """Seeds whose complete run has diverged."""
    worsened: frozenset[int]
    """Seeds of ``errors`` whose run ended worse than it began."""
    complete: int
    """Number of complete runs, those that have diverged included."""
    pruned: int
    """Number of runs that ended early, including ``skipped``."""
    skipped: int
    """Number of runs that were never started, since they could not change the answer."""
    failed: int
    """Number of runs that were given up after too many failed attempts."""
    retry: frozenset[int]
    """Seeds of ``missing`` whose earlier attempts have failed."""
    missing: frozenset[int]
    """Seeds whose run needs a trial."""
    open: frozenset[int]
    """Seeds whose trial is waiting or running."""
    paused: Mapping[int, Trial]
    """The trials of paused runs, by seed."""
    looks: Array
    """What the runs have shown at their looks: rows of :func:`look_rows`."""
    saved: int
    """Number of epochs that paused and pruned runs, without ``skipped``, have not been trained."""
    begun: int
    """Number of runs that have or had a trial, without ``skipped``."""
    redundant: tuple[Trial, ...]
    """Waiting, running and paused trials of runs that another trial serves."""

    @staticmethod
    def of(
        trials: Sequence[Trial],
        seeds: range,
        max_attempts: int,
        policy: Policy = POLICY,
        machines: Machines = NO_MACHINES,
        epochs: int = 0,
    ) -> CandidateSummary:
        """Summarise the trials of one candidate.

        Args:
            trials: All trials of the candidate.
            seeds: The seeds that the candidate is to run on.
            max_attempts: Failed attempts after which a run is given up.
            policy: Its constants for failures are used.
            machines: What is known of the machines that the trials failed on.
            epochs: Number of epochs of a whole run.
        """
        runs: dict[int, list[Trial]] = defaultdict(list)
        for trial in trials:
            runs[trial.key.seed].append(trial)
        serving = {seed: best for seed in seeds if (best := _serving(runs[seed]))}
        rest = frozenset(seeds) - serving.keys()
        failed = {
            seed
            for seed in rest
            if runs[seed] and _is_exhausted(runs[seed], max_attempts, policy, machines)
        }
        states = Counter(trial.state for trial in serving.values())
        skipped = sum(t.state == State.PRUNED and t.epochs == 0 for t in serving.values())
        is_open = (t for t in trials if t.open or t.state == State.PAUSED)
        return CandidateSummary(
            point=next((t.point for seed in seeds for t in runs[seed] if t.point), None),
            errors={
                seed: t.error
                for seed, t in serving.items()
                if t.error is not None and not t.diverged
            },
            diverged=frozenset(seed for seed, t in serving.items() if t.diverged),
            worsened=frozenset(s for s, t in serving.items() if t.worsened and not t.diverged),
            complete=states[State.COMPLETE],
            pruned=states[State.PRUNED],
            skipped=skipped,
            failed=len(failed),
            retry=frozenset(seed for seed in rest - failed if runs[seed]),
            missing=rest - failed,
            open=frozenset(seed for seed, t in serving.items() if t.open),
            paused={s: t for s, t in serving.items() if t.state == State.PAUSED},
            looks=look_rows({seed: t.looks for seed, t in serving.items()}),
            saved=sum(
                max(0, epochs - t.epochs)
                for t in serving.values()
                if t.state == State.PAUSED or (t.state == State.PRUNED and t.epochs)
            ),
            begun=len(serving) + len(failed) - skipped,
            redundant=tuple(t for t in is_open if t is not serving.get(t.key.seed)),
        )


class Memo:
    """What the plans of one process have worked out, for its next plan to reuse.

    Plans made with and without one are the same; only the time differs.
    """

    def __init__(self) -> None:
        self._summaries: WeakKeyDictionary[
            CandidateTrials, dict[tuple[range, int, Policy, Machines, int], CandidateSummary]
        ] = WeakKeyDictionary()
        self._surrogates: OrderedDict[object, Surrogate] = OrderedDict()

    def summary(
        self,
        trials: CandidateTrials,
        seeds: range,
        max_attempts: int,
        policy: Policy,
        machines: Machines = NO_MACHINES,
        epochs: int = 0,
    ) -> CandidateSummary:
        """The summary of these trials: made once, and again when they have changed or, if some have
        failed, when other things are known of the machines."""
        kept = self._summaries.setdefault(trials, {})
        known = machines if trials.has_failures else NO_MACHINES
        key = seeds, max_attempts, policy, known, epochs
        if key not in kept:
            if len(kept) >= _SUMMARIES_KEPT:
                kept.clear()
            kept[key] = CandidateSummary.of(trials.trials, *key)
        return kept[key]

    def surrogate(
        self,
        points: Iterable[Candidate],
        results: Results,
        policy: Policy,
        lengths: tuple[tuple[float, ...], ...] = (),
    ) -> Surrogate:
        """The surrogate of these points by these results: the last few are kept."""
        key = tuple(points), results.points, results.packed(), policy, lengths
        return self._kept(key, lambda: Surrogate.of(key[0], results, policy, lengths))

    def outlook(
        self,
        points: Iterable[Candidate],
        results: Results,
        looks: Looks,
        policy: Policy,
        lengths: tuple[tuple[float, ...], ...] = (),
    ) -> Surrogate:
        """The surrogate of these points by these results and looks: the last few are kept."""
        every = tuple(points)
        key = every, results.packed(), looks.points, looks.packed(), policy, lengths
        return self._kept(key, lambda: outlook(every, results, looks, policy, lengths))

    def _kept(self, key: object, make: Callable[[], Surrogate]) -> Surrogate:
        found = self._surrogates.pop(key, None) or make()
        self._surrogates[key] = found
        if len(self._surrogates) > _SURROGATES_KEPT:
            self._surrogates.popitem(last=False)
        return found


def _is_exhausted(
    trials: Sequence[Trial], max_attempts: int, policy: Policy, machines: Machines
) -> bool:
    """Whether a run without an open or finished trial is given up."""
    if any(trial.state == State.FAILED and trial.reason == WRONG for trial in trials):
        return True  # which every attempt would repeat
    weight = {ERROR: 1.0, MEMORY: 1.0, LOST: 1 / policy.losses_per_attempt}
    of_any: dict[str, float] = defaultdict(float)
    of_memory: dict[str, float] = defaultdict(float)
    for trial in trials:
        if trial.state == State.FAILED and trial.reason in weight:
            of_any[trial.worker or ""] += weight[trial.reason]
            if trial.reason == MEMORY:
                of_memory[trial.worker or ""] += 1
    return (
        attempts(of_any, machines, policy) >= max_attempts - _ROUNDING
        or attempts(of_memory, machines, policy) >= policy.memory_attempts
    )


def _serving(trials: Sequence[Trial]) -> Trial | None:
    """The trial that a run stands on: a finished one, else a running, else a paused, else a waiting
    one; the first of several. None if all have failed."""
    if len(trials) == 1:  # nearly always
        return None if trials[0].state == State.FAILED else trials[0]
    ended = (State.COMPLETE, State.PRUNED)
    for states in (ended, (State.RUNNING,), (State.PAUSED,), (State.WAITING,)):
        for trial in trials:
            if trial.state in states:
                return trial
    return None
