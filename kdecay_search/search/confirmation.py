"""The comparison that a study ends with: its found schedule against the original and others.

The best of many noisy candidates looks better than it is, so the search's own numbers are no
evidence. Here every schedule is trained anew, on seeds that the search has not used and on all
training images, and compared on the test set, in pairs of the same seed.

As :mod:`kdecay_search.search`, which calls it when the search is over, this is a pure function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from kdecay_search.search.tally import summary_of
from kdecay_search.statistics import Comparison, Sample, compare, describe, holm
from kdecay_search.study.comparators import (
    BASELINE_KS,
    COMPARATORS,
    FOUND,
    ORIGINAL,
    comparators_of,
    level_of,
    schedule_of,
)
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import (
    CONFIRMATION,
    CandidateKey,
    Replicates,
    RunKey,
    RunRequest,
    Trial,
)

NOTHING = Replicates(())
STEPS_PER_EPOCH = 100


@dataclass(frozen=True)
class Row:
    """One schedule's trainings."""

    comparator: str
    """Its name, of :data:`kdecay_search.study.comparators.COMPARATORS`."""
    lr_max: float | None
    """Of the schedule, where the level was searched: found for it, or what follows from that."""
    errors: Mapping[int, float]
    """Test error (%) by seed."""
    failed: int
    """Runs that were given up."""
    unfinished: int

    @property
    def error(self) -> Sample:
        return describe(self.errors.values())


@dataclass(frozen=True)
class Confirmation:
    """What the confirmation has shown so far, and what it still needs."""

    ks: tuple[float, ...]
    """The schedule that the search found."""
    seeds: range
    rows: tuple[Row, ...]
    """The found schedule, the original, the others; none if the search found nothing new."""
    enqueue: tuple[RunRequest, ...]
    redundant: tuple[Trial, ...]

    @property
    def is_over(self) -> bool:
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
    ks: tuple[float, ...],
    known: Mapping[CandidateKey, Replicates],
    found: float | None = None,
    original: float | None = None,
) -> Confirmation:
    """Compare ``ks``, which the search found; ``known``: the study's trials. ``found`` and
    ``original``: lr_max of the found schedule and of the original, where the level was searched."""
    first = spec.confirm.first_seed
    seeds = range(first, first + spec.confirm.seeds)
    if ks == BASELINE_KS:
        return Confirmation(ks, seeds, (), (), ())
    groups = {
        comparator: CandidateKey(
            CONFIRMATION,
            ks[:-1],
            COMPARATORS.index(comparator),
            level_of(comparator, found, original),
        )
        for comparator in comparators_of(spec)
    }
    summaries = {
        comparator: summary_of(known.get(group, NOTHING), seeds, spec.workers.max_attempts)
        for comparator, group in groups.items()
    }
    rows = [
        Row(
            comparator,
            _level(spec, ks, comparator, groups[comparator].lr_max),
            summary.errors,
            summary.failed,
            len(summary.lacking) + len(summary.open),
        )
        for comparator, summary in summaries.items()
    ]
    wanted = [
        _request(ks, comparator, groups[comparator].lr_max, seed)
        for seed in seeds  # pairs before further schedules' replicates
        for comparator, summary in summaries.items()
        if seed in summary.lacking
    ]
    redundant = [trial for summary in summaries.values() for trial in summary.redundant]
    redundant += _of_others(known, groups.values())
    return Confirmation(ks, seeds, tuple(rows), tuple(wanted), tuple(redundant))


def _of_others(
    known: Mapping[CandidateKey, Replicates], groups: Collection[CandidateKey]
) -> Iterator[Trial]:
    """Open trials that an earlier form of the confirmation asked for."""
    for group, replicates in known.items():
        if group.stage == CONFIRMATION and group not in groups:
            yield from (trial for trial in replicates.trials if trial.open)


def _level(
    spec: StudySpec, ks: tuple[float, ...], comparator: str, lr_max: float | None
) -> float | None:
    """Of a comparator that is made from ``lr_max``; to be told, not to be trained with, since its last
    digits may depend on the updates of an epoch."""
    if lr_max is None:
        return None
    return schedule_of(spec, comparator, ks, STEPS_PER_EPOCH, lr_max).lr_max


def _request(ks: tuple[float, ...], comparator: str, lr_max: float | None, seed: int) -> RunRequest:
    key = RunKey(CONFIRMATION, COMPARATORS.index(comparator), seed)
    bounds = (ks[-1], ks[-1])
    return RunRequest(
        key, ks[:-1], ks[-1], bounds, protected=True, comparator=comparator, lr_max=lr_max
    )
