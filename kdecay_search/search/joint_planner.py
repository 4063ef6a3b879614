"""The joint search: one stage that searches whole schedules on a budget.

The first runs are a space-filling design and the baselines at the study file's own level. After
that, the runs of each decision are those that are worth most by the knowledge gradient, of
candidates that were tried and of new ones alike, on any seed. Each baseline is tuned by the same
rule among its own levels and floors, with a number of runs that follows from the budget. The stage
ends when its budget is spent, or when no further run is worth it.

Every decision waits for the runs of the decision before, so a study's answer does not depend on how
many workers it has or how fast they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean

from kdecay_search.search.allocation import ROUNDING, Remaining, joint_batch_size
from kdecay_search.search.joint_allocation import JointAllocator, Tuning
from kdecay_search.search.knowledge_gradient import Run
from kdecay_search.search.machines import Machines
from kdecay_search.search.policy import Policy
from kdecay_search.search.proposals import as_in_file, edges, nearby, spread, widened
from kdecay_search.search.selection import Gain, Selection
from kdecay_search.search.space import Space
from kdecay_search.search.stage import CandidateResult, Incumbent, Stage, TunedBaseline
from kdecay_search.search.stage_planner import Following, StagePlanner
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.search.tally import Memo
from kdecay_search.statistics import Sample
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.space import ScheduleSpace, Subspace
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, CandidateTrials

NORMAL_95 = 1.96
"""Standard errors on either side of a 95 % interval."""


class JointPlanner(StagePlanner):
    """The trials of one stage of a joint search, and what follows from them."""

    def __init__(
        self,
        spec: StudySpec,
        incumbent: Incumbent | None,
        schedules: ScheduleSpace,
        replicates: Mapping[int, CandidateTrials],
        machines: Machines,
        policy: Policy,
        memo: Memo,
        budget: int,
    ) -> None:
        """
        Args:
            spec: The study.
            incumbent: What the stage before ended with; None in stage 1.
            schedules: What the stage may try; in a later stage its first family alone.
            replicates: The trials of each candidate that has some, by its index.
            machines: What is known of the machines from this stage and earlier ones.
            policy: The constants behind the decisions.
            memo: What earlier plans have worked out.
            budget: Number of runs that the stage may begin, all in all.
        """
        self.schedules, self.budget = schedules, budget
        policy = replace(
            policy,
            clear=0.0,
            draws=policy.whole_draws,
            min_worth=policy.whole_min_worth,
            own=schedules.own,
        )
        points = [
            _point_of(replicates[i]) if i in replicates else None
            for i in range(max(replicates, default=-1) + 1)
        ]
        k = schedules.families[0].axes.get("k", Axis((1.0,)))
        space = Space(spec.search, tuple(points), (k.low, k.high))
        super().__init__(spec, incumbent, space, replicates, machines, policy, memo)

    # ---- what the stage has found ------------------------------------------------------------

    def baseline(self) -> Incumbent:
        """In stage 1: the original, at its best level and floor."""
        first = self.schedules.baselines[0]
        if not self._tried_in(first):
            return Incumbent(BASELINE_KS, {}, point=as_in_file(first, self.spec.original))
        return super().baseline()

    def stage(self, incumbent: Incumbent) -> Stage:
        found = super().stage(incumbent)
        return replace(
            found,
            base=self.incumbent.point.without_term()
            if self.incumbent and self.incumbent.point
            else None,
            baselines=tuple(
                self._tuned(subspace, tried)
                for subspace in self.schedules.baselines
                if (tried := self._tried_in(subspace))
            ),
            edges=self._edges(),
        )

    def _tuned(self, subspace: Subspace, tried: Sequence[CandidateResult]) -> TunedBaseline:
        best = self._lowest(tried) or tried[0]
        gain = None
        if self.selection and self.best and self.best.point and best.point and best.errors:
            gain = self._gain_on(best.point, self.best.point)
        return TunedBaseline(subspace.name, best, len(tried), self._begun_of(tried), gain)

    def _tried_in(self, subspace: Subspace) -> list[CandidateResult]:
        return [c for c in self.candidates if c.point is not None and subspace.holds(c.point)]

    def _begun_of(self, candidates: Iterable[CandidateResult]) -> int:
        """Number of runs of some candidates that have begun."""
        return sum(self._summary(candidate.index).begun for candidate in candidates)

    def _gain(self, selection: Selection, best: Candidate) -> Gain:
        return self._gain_on(selection.points[0], best)

    def _gain_on(self, reference: Candidate, best: Candidate) -> Gain:
        """By how much the best candidate improves on another."""
        if best == reference:
            return Gain(0.0, (0.0, 0.0), 0.0)
        surrogate = self._judging
        gain = Selection.of(surrogate, (reference, best)).gain(best)
        return gain.widened(surrogate.results.uneven_noise((reference, best), self.policy))

    @cached_property
    def _judging(self) -> Surrogate:
        """The surrogate that schedules are compared by. What is far worse than all of these is left
        out: drawn in, its distance would be told wrong, and as it is, it would bend the surface."""
        assert self._surrogate is not None
        results = self._surrogate.results
        tried: dict[Candidate, Mapping[int, float]] = {}
        if self.incumbent is not None and self.incumbent.point is not None:
            tried[self.incumbent.point] = self.incumbent.errors
        tried |= {c.point: c.errors for c in self.candidates if c.point is not None}
        means = {point: fmean(errors.values()) for point, errors in tried.items() if errors}
        best = [self.best] if self.best else []
        compared = {each.point for each in (*best, *self._best_of_baselines())}
        compared.add(self._surrogate.points[0])
        limit = max((means[point] for point in compared if point in means), default=math.inf)
        kept = [
            point
            for point in self._surrogate.points
            if point in compared or means.get(point, math.inf) <= limit + results.spread
        ]
        policy = replace(self.policy, far=math.inf)
        among = results.among(frozenset(kept))
        return self._memo.surrogate(kept, among, policy, self._surrogate.lengths)

    def _best_of_baselines(self) -> list[CandidateResult]:
        groups = map(self._tried_in, self.schedules.baselines)
        return [self._lowest(group) or group[0] for group in groups if group]

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

    def _is_running(self) -> bool:
        return bool(self._unfinished() or self._next != Following())

    def _is_at_edge(self) -> bool:
        return bool(self._edges())

    def _edges(self) -> tuple[str, ...]:
        """Parameters of the best candidate that lie at a bound of what may be searched."""
        point = self.best.point if self.best else None
        if point is None:
            return ()
        family = next((each for each in self._searched() if each.family == point.family), None)
        return edges(family, point, self.policy) if family else ()

    def _to_go(self) -> int:
        under_way = sum(len(self._summary(c.index).open) for c in self.candidates)
        left = math.ceil(max(0.0, self._left_of_budget() - ROUNDING))
        return under_way + (left if self._is_running() else 0)

    # ---- which runs come next ----------------------------------------------------------------

    def following(self) -> Following:
        return self._next

    def goes_on(self, index: int, seed: int) -> bool:
        point = self.candidates[index].point
        if self._is_sampled or index < len(self._design()):
            return True  # what averaged values tell of the ends is learned from the design
        allocator = self._joint_allocator(self._left_of_budget())
        if allocator is None or point is None:
            return True
        return allocator.goes_on((point, seed), self._under_way())

    @cached_property
    def _next(self) -> Following:
        """What comes next, which is not asked for while runs are under way."""
        again = [
            (candidate, seed)
            for candidate in self.candidates
            for seed in sorted(self._summary(candidate.index).retry)
        ]
        if again:
            return Following(self._requests(again))
        left, proposals = self._left_of_budget(), 0
        if any(self._summary(c.index).open for c in self.candidates):
            return Following()
        if not self.candidates:
            runs = [(point, FIRST_SEED) for point in self._design()][: int(left)]
        elif self._is_sampled and left > self.policy.verdict_share * self.budget:
            runs, proposals = self._sampled(left)
        else:
            runs = self._allocate_jointly(left) if left > ROUNDING else []
        known = {c.point: c for c in self.candidates if c.point is not None}
        new = dict.fromkeys(point for point, _ in runs if point not in known)
        for index, point in enumerate(new, start=len(self.candidates)):
            known[point] = CandidateResult(
                index, point.k, {}, 0, 0, 0, 0, lr_max=point.lr_max, whole=point
            )
        if runs or proposals:
            first = len(self.candidates) + len(new)
            open_ones = [
                (CandidateResult(index, None, {}, 0, 0, 0, 0), FIRST_SEED)
                for index in range(first, first + proposals)
            ]
            return self._begun_with([*((known[point], seed) for point, seed in runs), *open_ones])
        paused = [(c, seed) for c in self.candidates for seed in self._summary(c.index).paused]
        return Following(close=self._paused(paused))

    def _design(self) -> list[Candidate]:
        """The first candidates: each baseline at the study file's level, and a spread of points."""
        families = self.schedules.families
        wanted = self.policy.design_per_axis * max(len(f.searched) for f in families) + 1
        count = max(2, min(wanted, int(self.policy.design_share * self.budget)))
        firsts = (as_in_file(each, self.spec.original) for each in self.schedules.baselines)
        seed = self.spec.search.sampler_seed
        return list(dict.fromkeys([*firsts, *spread(families, count, seed)]))

    def _searched(self) -> list[Subspace]:
        """The families, with ranges widened at whose edge the best candidate lies."""
        point = self.best.point if self.best else None
        return [
            widened(family, point, self.policy)
            if point and point.family == family.family
            else family
            for family in self.schedules.families
        ]

    def _wide(self, baseline: Subspace) -> Subspace:
        """A baseline's levels and floors, widened where its best lies at their edge."""
        best = self._lowest(self._tried_in(baseline))
        return widened(baseline, best.point, self.policy) if best and best.point else baseline

    def _new(self, tried: Collection[Candidate]) -> tuple[list[Candidate], list[list[Candidate]]]:
        """New candidates: those of the searched families, and those of each baseline."""
        policy, seed = self.policy, self.spec.search.sampler_seed
        searched, first = self._searched(), len(self.candidates)
        selection = self.selection
        assert selection is not None
        best = sorted(selection.points, key=lambda p: (selection.mean(p), p))[: policy.leaders]
        general: list[Candidate] = []
        if not self._is_sampled:
            general += spread(searched, policy.proposals, seed, first)
            general += nearby(best, searched, policy.proposals_nearby, seed)
        own = [
            [
                *(point for point in [self._matched(each)] if point),
                *spread([self._wide(each)], policy.proposals_nearby, seed, first),
            ]
            for each in self.schedules.baselines
        ]
        return (
            [point for point in dict.fromkeys(general) if point not in tried],
            [[point for point in dict.fromkeys(each) if point not in tried] for each in own],
        )

    def _matched(self, baseline: Subspace) -> Candidate | None:
        """A baseline's best with the values of the user's own parameters that the best candidate
        has; None if there are no such parameters, or no results."""
        own, best = self._lowest(self._tried_in(baseline)), self.best
        if own is None or own.point is None or best is None or best.point is None:
            return None
        return own.point._replace(args=best.point.args) if own.point.args else None

    @property
    def _is_sampled(self) -> bool:
        """Whether a sampler of Optuna's proposes the candidates, on the first seed. Its runs are
        not paused, and the verdict's share of the budget goes to those that are worth most of the
        candidates that it has tried. A further term is searched as always."""
        return self.spec.search.sampler != "joint" and self.number == 1

    def _sampled(self, left: float) -> tuple[list[Run], int]:
        """The next runs that the baselines are tuned with, and how many more are proposed by the
        sampler."""
        size = min(math.ceil(left - ROUNDING), joint_batch_size(self.budget, self.policy))
        allocator = self._joint_allocator(left)
        runs = allocator.tuning_runs(size) if allocator else []
        return runs, size - len(runs)

    def _allocate_jointly(self, left: float) -> list[Run]:
        """The next runs once some have begun; none if the stage is over."""
        allocator = self._joint_allocator(left)
        if allocator is not None:
            return allocator.next_runs()
        return [
            (c.point, seed)
            for c in self.candidates
            if c.point is not None
            for seed in self._summary(c.index).paused
        ]

    def _joint_allocator(self, left: float) -> JointAllocator | None:
        """What chooses the next runs; None without results."""
        tried = {c.point: c for c in self.candidates if c.point is not None}
        able = {point: c for point, c in tried.items() if not c.diverged and not c.failed}
        runs = {point: len(c.errors) for point, c in able.items() if c.errors}
        if not runs or self._surrogate is None:
            return None
        begun = [
            point for point, c in able.items() if not c.errors and self._summary(c.index).paused
        ]
        new, own = self._new(tried)
        every = dict.fromkeys([*new, *(point for points in own for point in points)])
        seeds = self.spec.search.seeds
        summaries = {point: self._summary(able[point].index) for point in (*runs, *begun)}
        missing = {point: each.missing | each.paused.keys() for point, each in summaries.items()}
        rest = self._rest(able[point] for point in summaries)
        missing |= dict.fromkeys(every, frozenset(range(seeds)))
        tunings = [
            Tuning(
                subspace, points, self._begun_of(self._tried_in(subspace)), self._matched(subspace)
            )
            for subspace, points in zip(self.schedules.baselines, own, strict=True)
        ]
        return JointAllocator(
            surrogate=self._seen_from(every),
            runs=runs,
            begun=begun,
            new=[] if self._is_sampled else list(every),
            tunings=tunings,
            remaining=Remaining(missing, seeds, left, left, rest),
            budget=self.budget,
            policy=self.policy,
        )

    def _seen_from(self, new: Iterable[Candidate]) -> Surrogate:
        """The surrogate of all candidates and of new ones."""
        assert self._surrogate is not None
        results, lengths = self._surrogate.results, self._surrogate.lengths
        if self._has_looks:
            points = tuple(dict.fromkeys((*self._points(), *new)))
            return self._memo.outlook(points, results, self._looks, self.policy, lengths)
        points = (*self._surrogate.points, *new)
        return self._memo.surrogate(points, results, self.policy, lengths)

    def _left_of_budget(self) -> float:
        """Trainings of full length that are left of the budget."""
        return self.budget - self.spent

    # ---- as on a grid ------------------------------------------------------------------------

    def _reference(self) -> Candidate:
        if self.incumbent is not None and self.incumbent.point is not None:
            return self.incumbent.point
        first = (point for point in self.space.points if point)
        return next(first, as_in_file(self.schedules.baselines[0], self.spec.original))

    def _learned(self, candidate: CandidateResult) -> Mapping[int, float]:
        """Runs that have diverged count as the worst of the others, which keeps the search away
        from where they are."""
        if not candidate.diverged:
            return candidate.errors
        every = (error for s in self.summaries.values() for error in s.errors.values())
        worst = max((error for error in every if error <= self._limit), default=None)
        if worst is None:
            return candidate.errors
        summary = self._summary(candidate.index)
        diverged = {*summary.diverged, *(s for s in summary.errors if s not in candidate.errors)}
        return {**candidate.errors, **dict.fromkeys(diverged, worst)}

    @property
    def _tunes_baseline(self) -> bool:
        return bool(self.schedules.baselines)

    @property
    def _runs_to_win(self) -> int:
        return 1  # the neighbours of a candidate speak for it

    def _is_baseline(self, candidate: CandidateResult) -> bool:
        original, point = self.schedules.baselines[:1], candidate.point
        return point is not None and any(subspace.holds(point) for subspace in original)

    def _candidate(self, index: int) -> CandidateResult:
        found = super()._candidate(index)
        summary = self._summary(index)
        return replace(
            found,
            whole=self.space.points[index],
            unfinished=len(summary.open) + len(summary.retry) + len(summary.paused),
        )


def _point_of(trials: CandidateTrials) -> Candidate | None:
    return next((trial.point for trial in trials.trials if trial.point), None)
