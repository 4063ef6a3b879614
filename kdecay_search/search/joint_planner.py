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
from functools import cached_property

from kdecay_search.search.allocation import ROUNDING, Remaining, joint_batch_size
from kdecay_search.search.joint_allocation import JointAllocator, Tuning
from kdecay_search.search.joint_results import JointResults
from kdecay_search.search.knowledge_gradient import Run
from kdecay_search.search.proposals import as_in_file, nearby, spread, widened
from kdecay_search.search.stage import CandidateResult
from kdecay_search.search.stage_planner import Following, StagePlanner
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import Subspace
from kdecay_search.study.trials import FIRST_SEED


class JointPlanner(StagePlanner):
    """Says which runs of a joint search's stage come next, go on, are resumed or closed."""

    results: JointResults

    def __init__(self, results: JointResults, budget: int) -> None:
        """
        Args:
            results: What the stage has found so far.
            budget: Number of runs that the stage may begin, all in all.
        """
        super().__init__(results)
        self.schedules, self.budget = results.schedules, budget
        self._left_of_budget = budget - results.spent

    def following(self) -> Following:
        return self._next

    def goes_on(self, index: int, seed: int) -> bool:
        if self._is_sampled or index < len(self._design()):
            return True  # what averaged values tell of the ends is learned from the design
        # New candidates would be of no account: what has not begun cannot become the answer.
        point = self.results.candidates[index].point
        allocator = self._joint_allocator(proposing=False)
        if allocator is None or point is None:
            return True
        return allocator.goes_on((point, seed), self._under_way())

    def _is_running(self) -> bool:
        return bool(self.results.unfinished or self._next != Following())

    def _to_go(self) -> int:
        left = math.ceil(max(0.0, self._left_of_budget - ROUNDING))
        return self.results.under_way + (left if self._is_running() else 0)

    @cached_property
    def _next(self) -> Following:
        """What comes next, which is not asked for while runs are under way."""
        results, left, proposals = self.results, self._left_of_budget, 0
        again = [(c, seed) for c in results.candidates for seed in sorted(results.summary(c).retry)]
        if again:
            return Following(self._requests(again))
        if results.under_way:
            return Following()
        if not results.candidates:
            runs = [(point, FIRST_SEED) for point in self._design()][: int(left)]
        elif self._is_sampled and left > self.policy.verdict_share * self.budget:
            runs, proposals = self._sampled()
        else:
            runs = self._allocate_jointly() if left > ROUNDING else []
        known = dict(results.by_point)
        new = dict.fromkeys(point for point, _ in runs if point not in known)
        for index, point in enumerate(new, start=len(results.candidates)):
            known[point] = CandidateResult(index, point.k, lr_max=point.lr_max, whole=point)
        if runs or proposals:
            first = len(results.candidates) + len(new)
            open_ones = [
                (CandidateResult(index, None), FIRST_SEED)
                for index in range(first, first + proposals)
            ]
            return self._begun_with([*((known[point], seed) for point, seed in runs), *open_ones])
        return Following(close=self._trials(self._paused()))

    def _design(self) -> list[Candidate]:
        """The first candidates: each baseline at the study file's level, and a spread of points."""
        families = self.schedules.families
        wanted = self.policy.design_per_axis * max(len(f.searched) for f in families) + 1
        count = max(2, min(wanted, int(self.policy.design_share * self.budget)))
        firsts = (as_in_file(each, self.spec.original) for each in self.schedules.baselines)
        seed = self.spec.search.sampler_seed
        return list(dict.fromkeys([*firsts, *spread(families, count, seed)]))

    @property
    def _is_sampled(self) -> bool:
        """Whether a sampler of Optuna's proposes the candidates, on the first seed. Its runs are
        not paused, and the verdict's share of the budget goes to those that are worth most of the
        candidates that it has tried. A further term is searched as always."""
        return self.spec.search.sampler != "joint" and self.results.number == 1

    def _sampled(self) -> tuple[list[Run], int]:
        """The next runs that the baselines are tuned with, and how many more are proposed by the
        sampler."""
        left = math.ceil(self._left_of_budget - ROUNDING)
        size = min(left, joint_batch_size(self.budget, self.policy))
        allocator = self._joint_allocator()
        runs = allocator.tuning_runs(size) if allocator else []
        return runs, size - len(runs)

    def _allocate_jointly(self) -> list[Run]:
        """The next runs once some have begun; none if the stage is over."""
        allocator = self._joint_allocator()
        if allocator is not None:
            return allocator.next_runs()
        paused = [(c.point, seed) for c, seed in self._paused() if c.point is not None]
        return paused or [(point, FIRST_SEED) for point in self._lower()]

    def _lower(self) -> list[Candidate]:
        """Where every run has diverged: each baseline at the lowest level that may be searched;
        none where the level is not searched."""
        found = []
        for baseline in self.schedules.baselines:
            diverged = [c.point for c in self.results.tried_in(baseline) if c.diverged]
            tried = [point for point in diverged if point is not None]
            if tried and "lr_max" in baseline.searched:
                lowest = min(tried, key=lambda point: point.value("lr_max"))
                low = widened(baseline, lowest, self.policy).axes["lr_max"].low
                found.append(lowest._replace(lr_max=low))
        return [point for point in found if point not in self.results.by_point]

    def _joint_allocator(self, proposing: bool = True) -> JointAllocator | None:
        """What chooses the next runs, among new candidates as well if it is ``proposing``; None
        without results."""
        results, left = self.results, self._left_of_budget
        able = {p: c for p, c in results.by_point.items() if not c.diverged and not c.failed}
        runs = {point: len(c.errors) for point, c in able.items() if c.errors}
        if not runs:
            return None
        begun = [p for p, c in able.items() if not c.errors and results.summary(c).paused]
        new, own = self._new() if proposing else ([], [[] for _ in self.schedules.baselines])
        every = list(dict.fromkeys([*new, *(point for points in own for point in points)]))
        surrogate = results.outlook_on(every)
        assert surrogate is not None
        seeds = self.spec.search.seeds
        summaries = {point: results.summary(able[point]) for point in (*runs, *begun)}
        missing = {point: each.missing | each.paused.keys() for point, each in summaries.items()}
        missing |= dict.fromkeys(every, frozenset(range(seeds)))
        rest = self._rest(able[point] for point in summaries)
        return JointAllocator(
            surrogate=surrogate,
            runs=runs,
            begun=begun,
            new=[] if self._is_sampled else every,
            tunings=[
                Tuning(each, points, results.begun_in(each), self._matched(each))
                for each, points in zip(self.schedules.baselines, own, strict=True)
            ],
            remaining=Remaining(missing, seeds, left, left, rest),
            budget=self.budget,
            policy=self.policy,
        )

    # ---- new candidates ----------------------------------------------------------------------

    def _new(self) -> tuple[list[Candidate], list[list[Candidate]]]:
        """New candidates: those of the searched families, and those of each baseline."""
        policy, seed = self.policy, self.spec.search.sampler_seed
        searched, first = self.results.searched(), len(self.results.candidates)
        selection = self.results.selection
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
        tried = self.results.by_point
        return (
            [point for point in dict.fromkeys(general) if point not in tried],
            [[point for point in dict.fromkeys(each) if point not in tried] for each in own],
        )

    def _wide(self, baseline: Subspace) -> Subspace:
        """A baseline's levels and floors, widened where its best lies at their edge."""
        best = self.results.best_in(baseline)
        return widened(baseline, best.point, self.policy) if best and best.point else baseline

    def _matched(self, baseline: Subspace) -> Candidate | None:
        """A baseline's best with the values of the user's own parameters that the best candidate
        has; None if there are no such parameters, or no results."""
        own, best = self.results.best_in(baseline), self.results.best
        if own is None or own.point is None or best is None or best.point is None:
            return None
        return own.point._replace(args=best.point.args) if own.point.args else None
