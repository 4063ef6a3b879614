"""What a stage of the search is, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kdecay_search.search.selection import Gain
from kdecay_search.statistics import Sample, describe
from kdecay_search.study.candidate import Candidate, candidate_name, schedule_name
from kdecay_search.study.metric import Metric


class Progress(StrEnum):
    """Where a stage or a study stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class CandidateResult:
    """A candidate of a stage and what its runs gave."""

    index: int
    """Number of the candidate within its stage, from 0."""
    k: float | None
    """The exponent; None until a sampler has chosen it."""
    errors: Mapping[int, float] = field(default_factory=dict)
    """Error of complete runs that have not diverged, by seed; lower is better."""
    pruned: int = 0
    """Number of runs that ended early, including ``skipped``."""
    skipped: int = 0
    """Number of runs that were never started, since they could not change the answer."""
    failed: int = 0
    """Number of runs that were given up."""
    unfinished: int = 0
    """Number of runs that are waiting, running or still to be queued."""
    probability: float | None = None
    """Probability to be the best of the stage, by the results so far; None before there are any."""
    lr_max: float | None = None
    """Level of the learning rate; None if it is not searched."""
    diverged: int = 0
    """Number of complete runs that have diverged: they rank worst, and count in no mean."""
    whole: Candidate | None = None
    """The whole schedule, if the study searches these; None on a grid."""

    @property
    def point(self) -> Candidate | None:
        """The candidate as a point of the search space; None until a sampler has chosen it."""
        if self.whole is not None:
            return self.whole
        return None if self.k is None else Candidate(self.k, self.lr_max)

    @property
    def error(self) -> Sample:
        """Mean and standard deviation of the errors over the seeds."""
        return describe(self.errors.values())


@dataclass(frozen=True)
class Incumbent:
    """A schedule and its results: the best so far, or the original."""

    ks: tuple[float, ...]
    """Its terms."""
    errors: Mapping[int, float]
    """Error of complete runs that have not diverged, by seed; lower is better."""
    lr_max: float | None = None
    """Its level of the learning rate; None if it is not searched."""
    diverged: int = 0
    """Number of complete runs that have diverged."""
    point: Candidate | None = None
    """The whole schedule with the last of its terms, if the study searches these; None on a grid.
    """

    @property
    def name(self) -> str:
        """The schedule's name for people."""
        if self.point is None:
            return schedule_name(self.ks, self.lr_max)
        return candidate_name(self.point, self.ks[:-1])


@dataclass(frozen=True)
class TunedBaseline:
    """A usual schedule at its own best level and floor, and how its tuning stands."""

    name: str
    """Name of the schedule, such as ``cosine``."""
    best: CandidateResult
    """The best of its candidates."""
    candidates: int
    """Number of its candidates."""
    runs: int
    """Number of its runs that have begun."""
    gain: Gain | None
    """By how much the stage's best candidate improves on it; None without results."""


@dataclass(frozen=True)
class Stage:
    """The search for one term."""

    n: int
    """Number of the stage, from 1."""
    earlier_ks: tuple[float, ...]
    """The terms that earlier stages kept."""
    candidates: tuple[CandidateResult, ...]
    """All candidates, by index."""
    progress: Progress
    """Where the stage stands."""
    to_go: int
    """Number of runs that are under way or still to be trained; with pruning, the largest number
    that may be."""
    best: CandidateResult | None
    """The best candidate so far; None without results."""
    gain: Sample
    """By how much the best candidate improves on the incumbent, paired by seed."""
    leads: bool
    """Whether the best candidate improves on the incumbent by more than ``min_gain`` so far."""
    kept: bool
    """Whether the stage has ended and its best candidate is kept as a term."""
    at_edge: bool
    """Whether the best candidate is the largest that the search space allows."""
    smooth_gain: Gain | None
    """By how much the best candidate improves on the incumbent, by the smooth curve through all
    results; None without results."""
    lr_max: float | None = None
    """In a later stage, the learning-rate level that stage 1 found; None if it is not searched."""
    base: Candidate | None = None
    """In a later stage of a search of whole schedules, what it builds on; else None."""
    baselines: tuple[TunedBaseline, ...] = ()
    """The usual schedules that a search of whole schedules has tuned, the original first."""
    edges: tuple[str, ...] = ()
    """Parameters whose best value lies at a bound that the search may not widen any further."""

    def why_best(self, metric: Metric) -> str | None:
        """Why the best candidate is the best, if another has the better mean or the higher
        probability to be the best; else None.

        Args:
            metric: The study's metric.
        """
        best = self.best
        if best is None or best.error.mean is None or best.whole is not None:
            return None  # of whole schedules, each has its own place on the surface
        others = [c for c in self.candidates if c.index != best.index and c.k is not None]
        ahead = [c for c in others if c.error.mean is not None and c.error.mean < best.error.mean]
        likelier = [c for c in others if (c.probability or 0) > (best.probability or 0)]
        reasons = []
        if ahead:
            of = "of fewer or easier seeds"
            reasons.append(f"the mean of {_names(ahead)} is {metric.better}, but {of}")
        if likelier:
            reasons.append(f"P(best) of {_names(likelier)} is higher, since less is known of it")
        if not reasons:
            return None
        runs = len(best.errors)
        return (
            f"{_names([best])} is the {metric.best} point of the smooth curve through all runs, "
            f"among candidates with {'two complete runs' if runs > 1 else 'a complete run'} or "
            f"more: {'; '.join(reasons)}."
        )

    @property
    def levels(self) -> tuple[float, ...]:
        """The learning-rate levels that the stage tries, ascending; empty if it tries one only."""
        tried = sorted({c.lr_max for c in self.candidates if c.lr_max is not None})
        return tuple(tried) if self.lr_max is None else ()


def _names(candidates: Sequence[CandidateResult]) -> str:
    """Text such as ``k = 3, 5``; with levels, ``k = 3 at lr_max 0.1, k = 5 at lr_max 0.2``."""
    known = sorted(c.point for c in candidates if c.point is not None)
    if any(point.is_whole or point.lr_max is not None for point in known):
        return ", ".join(map(candidate_name, known))
    return schedule_name(point.k for point in known if point.k is not None)
