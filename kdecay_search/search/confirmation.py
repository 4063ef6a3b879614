"""The confirmation that may end a study: the found schedule against the original and others.

The best of many noisy candidates looks better than it is, so the search's own numbers are no
evidence. Here every schedule is trained anew, on seeds that the search has not used and on all
training data, and compared on the test set, in pairs of the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from kdecay_search.search.machines import Machines
from kdecay_search.search.policy import Policy
from kdecay_search.search.stage import Incumbent, TunedBaseline
from kdecay_search.search.tally import Memo
from kdecay_search.statistics import Comparison, Sample, compare, describe, holm
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.comparators import (
    BASELINE_OF_TUNED,
    COMPARATORS,
    FOUND,
    GIVEN,
    ORIGINAL,
    comparators_of,
    lr_max_of,
    schedule_of,
)
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import (
    CONFIRMATION,
    CandidateKey,
    CandidateTrials,
    RunKey,
    RunRequest,
    Trial,
    key_of,
)

NO_TRIALS = CandidateTrials(())
STATED_STEPS_PER_EPOCH = 100
"""Updates an epoch that reports assume where a schedule's level depends on them a little."""


@dataclass(frozen=True)
class Row:
    """The runs of one schedule."""

    comparator: str
    """Name of the schedule, one of :data:`kdecay_search.study.comparators.COMPARATORS`."""
    lr_max: float | None
    """Level of the learning rate; None if the search did not search it."""
    errors: Mapping[int, float]
    """Error on the test set by seed, of runs that have not diverged; lower is better."""
    diverged: int
    """Number of runs that have diverged."""
    failed: int
    """Number of runs that were given up."""
    unfinished: int
    """Number of runs that are waiting, running or still to be queued."""
    name: str = ""
    """The schedule's name for people, where the study searches whole schedules."""

    @property
    def error(self) -> Sample:
        """Mean and standard deviation of the errors over the seeds."""
        return describe(self.errors.values())


@dataclass(frozen=True)
class Confirmation:
    """What the confirmation has shown so far, and what it still needs."""

    ks: tuple[float, ...]
    """The terms of the schedule that the search found."""
    seeds: range
    """The fresh seeds that every schedule runs on."""
    rows: tuple[Row, ...]
    """The found schedule, the original, and the others; empty if the search found nothing new."""
    enqueue: tuple[RunRequest, ...]
    """Runs to be queued, in the order in which workers should take them."""
    redundant: tuple[Trial, ...]
    """Waiting and running trials of runs that another trial serves, or that are not wanted."""
    name: str = ""
    """Name of the schedule that the search found, for people."""

    @property
    def is_over(self) -> bool:
        """Whether every run has ended."""
        return not any(row.unfinished for row in self.rows)

    @cached_property
    def comparison(self) -> Comparison:
        """The found schedule against the original: what the verdict rests on."""
        return compare(self._errors(ORIGINAL), self._errors(FOUND))

    @cached_property
    def others(self) -> dict[str, Comparison]:
        """The found schedule against each other one; p values corrected for their number (Holm)."""
        rest = [row for row in self.rows if row.comparator not in (FOUND, ORIGINAL)]
        return holm({row.comparator: compare(row.errors, self._errors(FOUND)) for row in rest})

    def _errors(self, comparator: str) -> Mapping[int, float]:
        return next((row.errors for row in self.rows if row.comparator == comparator), {})


def confirm(
    spec: StudySpec,
    found: Incumbent,
    original: Incumbent,
    tuned: Iterable[TunedBaseline],
    known: Mapping[CandidateKey, CandidateTrials],
    memo: Memo,
    policy: Policy,
) -> Confirmation:
    """Compare the schedule that a search found with the study's comparators.

    Args:
        spec: The study.
        found: The schedule that the search found.
        original: The original schedule, at its best learning-rate level. If that is what the
            search found, its level is confirmed against the study file's own.
        tuned: Usual schedules that a search of whole schedules has tuned.
        known: The study's trials.
        memo: What earlier plans have worked out.
        policy: Its limits for failed attempts are used.
    """
    first = spec.confirm.first_seed
    seeds = range(first, first + spec.confirm.seeds)
    if (found.ks, found.point) == (original.ks, original.point):
        original = replace(original, point=found.point and spec.original)
    if (found.ks, found.point) == (original.ks, original.point):
        return Confirmation(found.ks, seeds, (), (), (), found.name)
    wanted = _wanted(spec, found, original, tuned)
    keys = {comparator: key_of(request) for comparator, request in wanted.items()}
    attempts = spec.workers.max_attempts
    machines = Machines.of_groups(known.values(), policy)
    summaries = {
        comparator: memo.summary(known.get(key, NO_TRIALS), seeds, attempts, policy, machines)
        for comparator, key in keys.items()
    }
    rows = [
        Row(
            comparator,
            _stated_lr_max(spec, found.ks, comparator, wanted[comparator]),
            summary.errors,
            len(summary.diverged),
            summary.failed,
            len(summary.missing) + len(summary.open),
            _name(comparator, wanted[comparator].point, found),
        )
        for comparator, summary in summaries.items()
    ]
    requests = [
        replace(wanted[comparator], key=replace(wanted[comparator].key, seed=seed))
        for seed in seeds  # pairs before further schedules' replicates
        for comparator, summary in summaries.items()
        if seed in summary.missing
    ]
    redundant = [trial for summary in summaries.values() for trial in summary.redundant]
    redundant += [
        trial  # which an earlier form of the confirmation asked for
        for group, of_candidate in known.items()
        if group.stage == CONFIRMATION and group not in keys.values()
        for trial in of_candidate.trials
        if trial.open
    ]
    return Confirmation(
        found.ks,
        seeds,
        tuple(rows),
        tuple(requests),
        tuple(redundant),
        found.name,
    )


def _wanted(
    spec: StudySpec, found: Incumbent, original: Incumbent, tuned: Iterable[TunedBaseline]
) -> dict[str, RunRequest]:
    """A request for each comparator, on a seed that is still to be replaced."""
    ks = found.ks
    keys = {name: RunKey(CONFIRMATION, place, 0) for place, name in enumerate(COMPARATORS)}
    if found.point is None:
        bounds = (ks[-1], ks[-1])
        return {
            comparator: RunRequest(
                keys[comparator],
                ks[:-1],
                ks[-1],
                bounds,
                protected=True,
                comparator=comparator,
                lr_max=lr_max_of(comparator, found.lr_max, original.lr_max),
            )
            for comparator in comparators_of(spec)
        }
    points = {FOUND: found.point, ORIGINAL: original.point, GIVEN: spec.original}
    points |= {
        BASELINE_OF_TUNED[each.name]: each.best.whole
        for each in tuned
        if each.name in BASELINE_OF_TUNED
    }
    same = {comparator for comparator, point in points.items() if point == found.point}
    if points[GIVEN] == original.point:
        del points[GIVEN]
    return {
        comparator: RunRequest(
            keys[comparator],
            ks[:-1] if comparator == FOUND else (),
            point.k,
            (point.k or 1.0,) * 2,
            protected=True,
            comparator=comparator,
            lr_max=point.lr_max,
            point=point,
        )
        for comparator, point in points.items()
        if point is not None and (comparator == FOUND or comparator not in same)
    }


def _name(comparator: str, point: Candidate | None, found: Incumbent) -> str:
    if point is None:
        return ""
    return found.name if comparator == FOUND else candidate_name(point)


def _stated_lr_max(
    spec: StudySpec, ks: tuple[float, ...], comparator: str, request: RunRequest
) -> float | None:
    """The level that reports state for a comparator; None if the level was not searched. A run
    computes its own, whose last digits may depend on the number of updates in an epoch."""
    lr_max = request.lr_max
    if lr_max is None or request.point is not None:
        return lr_max
    return schedule_of(spec, comparator, ks, STATED_STEPS_PER_EPOCH, lr_max).lr_max
