"""What a stage of the joint search has found so far: schedules, baselines, and the best of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from statistics import fmean

from kdecay_search.search.proposals import as_in_file, edges, widened
from kdecay_search.search.selection import Gain
from kdecay_search.search.space import Space
from kdecay_search.search.stage import CandidateResult, Incumbent, Stage, TunedBaseline
from kdecay_search.search.stage_results import StageRecords, StageResults
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.statistics import Sample
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.space import ScheduleSpace, Subspace
from kdecay_search.study.trials import CandidateTrials

NORMAL_95 = 1.96
"""Standard errors on either side of a 95 % interval."""


class JointResults(StageResults):
    """The trials of one stage of a joint search, and what they say about the candidates."""

    def __init__(self, records: StageRecords, schedules: ScheduleSpace) -> None:
        """
        Args:
            records: What is known.
            schedules: What the stage may try; in a later stage its first family alone.
        """
        self.schedules = schedules
        policy, trials = records.policy, records.trials
        policy = replace(
            policy,
            clear=0.0,
            draws=policy.whole_draws,
            min_worth=policy.whole_min_worth,
            own=schedules.own,
        )
        points = [
            _point_of(trials[i]) if i in trials else None
            for i in range(max(trials, default=-1) + 1)
        ]
        k = schedules.families[0].axes.get("k", Axis((1.0,)))
        space = Space(records.spec.search, tuple(points), (k.low, k.high))
        super().__init__(replace(records, policy=policy), space)

    def baseline(self) -> Incumbent:
        """In stage 1: the original, at its best level and floor."""
        first = self.schedules.baselines[0]
        if not self.tried_in(first):
            return Incumbent(BASELINE_KS, {}, point=as_in_file(first, self.spec.original))
        return super().baseline()

    def tried_in(self, subspace: Subspace) -> list[CandidateResult]:
        """The candidates that lie in a subspace."""
        return [c for c in self.candidates if c.point is not None and subspace.holds(c.point)]

    def best_in(self, subspace: Subspace) -> CandidateResult | None:
        """The best candidate of a subspace; None without results."""
        return self.lowest(self.tried_in(subspace))

    def begun_in(self, subspace: Subspace) -> int:
        """Number of runs of a subspace's candidates that have begun."""
        return sum(self.summary(candidate).begun for candidate in self.tried_in(subspace))

    def searched(self) -> list[Subspace]:
        """The families, with ranges widened at whose edge the best candidate lies."""
        point = self.best.point if self.best else None
        return [
            widened(family, point, self.policy)
            if point and point.family == family.family
            else family
            for family in self.schedules.families
        ]

    # ---- where the stage stands --------------------------------------------------------------

    def stage(self, incumbent: Incumbent, to_go: int, is_running: bool) -> Stage:
        found, base = super().stage(incumbent, to_go, is_running), self.incumbent
        at_bounds = self._edges()
        return replace(
            found,
            base=base.point.without_term() if base and base.point else None,
            baselines=tuple(
                self._tuned(subspace)
                for subspace in self.schedules.baselines
                if self.tried_in(subspace)
            ),
            at_edge=bool(at_bounds),
            edges=at_bounds,
        )

    def _edges(self) -> tuple[str, ...]:
        """Parameters of the best candidate that lie at a bound of what may be searched."""
        point = self.best.point if self.best else None
        if point is None:
            return ()
        family = next((each for each in self.searched() if each.family == point.family), None)
        return edges(family, point, self.policy) if family else ()

    def _tuned(self, subspace: Subspace) -> TunedBaseline:
        tried = self.tried_in(subspace)
        best = self.lowest(tried) or tried[0]
        gain = None
        if self.best and self.best.point and best.point and best.errors:
            gain = self._gain(best.point, self.best.point)
        return TunedBaseline(subspace.name, best, len(tried), self.begun_in(subspace), gain)

    @property
    def _chosen_by(self) -> Surrogate | None:
        """The results alone, once there are any: nearly all runs come to their end, and where looks
        are noisier than results, or not as smooth, they would hide what the results tell."""
        return self.surrogate or self.outlook

    @cached_property
    def _judging(self) -> Surrogate:
        """The surrogate that schedules are compared by. What is far worse than all of these is left
        out: drawn in, its distance would be told wrong, and as it is, it would bend the surface."""
        surrogate = self.surrogate
        assert surrogate is not None
        tried: dict[Candidate, Mapping[int, float]] = {}
        if self.incumbent is not None and self.incumbent.point is not None:
            tried[self.incumbent.point] = self.incumbent.errors
        tried |= {point: c.errors for point, c in self.by_point.items()}
        means = {point: fmean(errors.values()) for point, errors in tried.items() if errors}
        groups = [group for each in self.schedules.baselines if (group := self.tried_in(each))]
        best = [self.best, *(self.lowest(group) or group[0] for group in groups)]
        compared = {surrogate.points[0], *(each.point for each in best if each)}
        limit = max((means[point] for point in compared if point in means), default=math.inf)
        kept = [
            point
            for point in surrogate.points
            if point in compared or means.get(point, math.inf) <= limit + surrogate.results.spread
        ]
        policy = replace(self.policy, far=math.inf)
        among = surrogate.results.among(frozenset(kept))
        return self._memo.surrogate(kept, among, policy, surrogate.lengths)

    def _is_better(self, gain: Sample, incumbent: Incumbent, smooth: Gain | None) -> bool:
        """The best schedule of the first stage is the answer, sure or not: the verdict says how
        sure. A further term must gain ``min_gain_errors`` standard errors, or what the study file
        states."""
        stated = self.spec.search.min_gain
        if smooth is None or (stated == "auto" and self.number == 1):
            return True
        if stated != "auto":
            return smooth.mean > stated
        error = (smooth.mean - smooth.interval[0]) / NORMAL_95
        return smooth.mean > self.policy.min_gain_errors * error

    # ---- as on a grid ------------------------------------------------------------------------

    def is_baseline(self, candidate: CandidateResult) -> bool:
        original, point = self.schedules.baselines[:1], candidate.point
        return point is not None and any(subspace.holds(point) for subspace in original)

    def _candidate(self, index: int) -> CandidateResult:
        found = super()._candidate(index)
        summary = self.summary(found)
        return replace(
            found,
            whole=self.space.points[index],
            unfinished=len(summary.open) + len(summary.retry) + len(summary.paused),
        )

    def _reference(self) -> Candidate:
        if self.incumbent is not None and self.incumbent.point is not None:
            return self.incumbent.point
        return next(
            iter(self.by_point), as_in_file(self.schedules.baselines[0], self.spec.original)
        )

    def _learned(self, candidate: CandidateResult) -> Mapping[int, float]:
        """Runs that have diverged count as the worst of the others, which keeps the search away
        from where they are."""
        if not candidate.diverged:
            return candidate.errors
        every = (error for s in self.summaries.values() for error in s.errors.values())
        worst = max((error for error in every if error <= self._limit), default=None)
        if worst is None:
            return candidate.errors
        summary = self.summary(candidate)
        diverged = {*summary.diverged, *(s for s in summary.errors if s not in candidate.errors)}
        return {**candidate.errors, **dict.fromkeys(diverged, worst)}

    @property
    def _tunes_baseline(self) -> bool:
        return bool(self.schedules.baselines)

    @property
    def _runs_to_win(self) -> int:
        return 1  # the neighbours of a candidate speak for it


def _point_of(trials: CandidateTrials) -> Candidate | None:
    return next((trial.point for trial in trials.trials if trial.point), None)
