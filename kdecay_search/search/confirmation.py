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

from kdecay_search.search.tally import account_of
from kdecay_search.statistics import Comparison, Sample, compare, describe, holm
from kdecay_search.study.comparators import (
    BASELINE_KS,
    CONTROLS,
    FOUND,
    ORIGINAL,
    controls_of,
    level_of,
    schedule_of,
)
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, CandidateKey, Replicates, RunKey, Token, Trial

NOTHING = Replicates(())
STEPS_PER_EPOCH = 100


@dataclass(frozen=True)
class Row:
    """One schedule's trainings."""

    control: str
    """Its name, of :data:`kdecay_search.study.comparators.CONTROLS`."""
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
    enqueue: tuple[Token, ...]
    superfluous: tuple[Trial, ...]

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
        rest = [row for row in self.rows if row.control not in (FOUND, ORIGINAL)]
        return holm({row.control: compare(row.errors, self._errors(FOUND)) for row in rest})

    def _errors(self, control: str) -> Mapping[int, float]:
        return next((row.errors for row in self.rows if row.control == control), {})


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
        control: CandidateKey(
            CONFIRMATION, ks[:-1], CONTROLS.index(control), level_of(control, found, original)
        )
        for control in controls_of(spec)
    }
    accounts = {
        control: account_of(known.get(group, NOTHING), seeds, spec.workers.max_attempts)
        for control, group in groups.items()
    }
    rows = [
        Row(
            control,
            _level(spec, ks, control, groups[control].lr_max),
            account.errors,
            account.failed,
            len(account.lacking) + len(account.open),
        )
        for control, account in accounts.items()
    ]
    wanted = [
        _token(ks, control, groups[control].lr_max, seed)
        for seed in seeds  # pairs before further schedules' replicates
        for control, account in accounts.items()
        if seed in account.lacking
    ]
    superfluous = [trial for account in accounts.values() for trial in account.superfluous]
    superfluous += _of_others(known, groups.values())
    return Confirmation(ks, seeds, tuple(rows), tuple(wanted), tuple(superfluous))


def _of_others(
    known: Mapping[CandidateKey, Replicates], groups: Collection[CandidateKey]
) -> Iterator[Trial]:
    """Open trials that an earlier form of the confirmation asked for."""
    for group, replicates in known.items():
        if group.stage == CONFIRMATION and group not in groups:
            yield from (trial for trial in replicates.trials if trial.open)


def _level(
    spec: StudySpec, ks: tuple[float, ...], control: str, lr_max: float | None
) -> float | None:
    """Of a control that is made from ``lr_max``; to be told, not to be trained with, since its last
    digits may depend on the updates of an epoch."""
    if lr_max is None:
        return None
    return schedule_of(spec, control, ks, STEPS_PER_EPOCH, lr_max).lr_max


def _token(ks: tuple[float, ...], control: str, lr_max: float | None, seed: int) -> Token:
    key = RunKey(CONFIRMATION, CONTROLS.index(control), seed)
    bounds = (ks[-1], ks[-1])
    return Token(key, ks[:-1], ks[-1], bounds, protected=True, control=control, lr_max=lr_max)
