"""Which runs a stage needs next, by what it has found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kdecay_search.search.allocation import Remaining, RunAllocator, batch_size, max_runs
from kdecay_search.search.knowledge_gradient import Run
from kdecay_search.search.stage import CandidateResult, Incumbent, Stage
from kdecay_search.search.stage_results import StageResults
from kdecay_search.study.trials import FIRST_SEED, RunKey, RunRequest, Trial

CandidateRun = tuple[CandidateResult, int]
"""A candidate and a seed."""


@dataclass(frozen=True)
class Following:
    """What becomes of a stage's runs that are neither under way nor done."""

    enqueue: tuple[RunRequest, ...] = ()
    """Runs to be queued, in the order in which workers should take them."""
    resume: tuple[Trial, ...] = ()
    """Paused trials that go on."""
    skip: tuple[RunRequest, ...] = ()
    """Runs that are not needed."""
    close: tuple[Trial, ...] = ()
    """Paused trials that are not needed any further."""


class StagePlanner:
    """Says which runs of a grid's stage come next, are due, go on, are resumed or closed."""

    def __init__(self, results: StageResults) -> None:
        """
        Args:
            results: What the stage has found so far.
        """
        self.results = results
        self.spec, self.policy = results.spec, results.policy

    def stage(self, incumbent: Incumbent) -> Stage:
        """Where the stage stands.

        Args:
            incumbent: What its best candidate is compared with; in stage 1, the baseline.
        """
        return self.results.stage(incumbent, self._to_go(), self._is_running())

    def following(self) -> Following:
        """What becomes of the runs that no open or finished trial serves."""
        candidates = self.results.candidates
        if self.spec.pruning.enabled:
            due = self._due()
            if due or any(self.results.summary(c).open for c in candidates):
                return self._begun_with(due)
            further = self._allocate()
            if further:
                return self._begun_with(further)
        missing = [(c, seed) for c in candidates for seed in self._missing(c)]
        missing.sort(key=lambda run: run[1])
        if not self.spec.pruning.enabled:
            return self._begun_with([*missing, *self._paused()])
        return Following(skip=self._requests(missing), close=self._trials(self._paused()))

    def redundant(self) -> Iterator[Trial]:
        """Open trials of runs that another trial serves."""
        for summary in self.results.summaries.values():
            yield from summary.redundant

    def goes_on(self, index: int, seed: int) -> bool:
        """Whether a paused run should train on now, while others are under way."""
        point, allocator = self.results.candidates[index].point, self._allocator()
        if allocator is None or point is None:
            return True
        return allocator.goes_on((point, seed), self._under_way())

    def _is_running(self) -> bool:
        """Whether the stage has runs that are under way or still to come."""
        return bool(self.results.unfinished)

    def _to_go(self) -> int:
        """Number of runs that are under way or still to be trained, at most."""
        unfinished = self.results.unfinished
        if not self.spec.pruning.enabled:
            return unfinished
        left = math.ceil(max(0.0, self._left(self.policy.extra_runs)))
        return min(unfinished, left + self.results.under_way)

    # ---- the runs of a grid ------------------------------------------------------------------

    def _missing(self, candidate: CandidateResult) -> list[int]:
        """Seeds of the candidate's runs that no trial serves; the first alone where the sampler
        has not chosen k yet."""
        seeds = sorted(self.results.summary(candidate).missing)
        return seeds if candidate.k is not None else [s for s in seeds if s == FIRST_SEED]

    def _due(self) -> list[CandidateRun]:
        """The runs that are needed however the others end: a part of the candidates begins on the
        first seed and, if there is one level, the baseline on the second; and failed runs are
        tried again."""
        needed, space = self.policy.min_runs_to_win, self.results.space
        later = space.later if self.spec.search.seeds > needed else frozenset()
        has_level = len(space.levels) == 1
        due: list[CandidateRun] = []
        for candidate in self.results.candidates:
            seeds = set(self.results.summary(candidate).retry)
            if candidate.index not in later:
                seeds.add(FIRST_SEED)
            if has_level and self.results.is_baseline(candidate):
                seeds |= set(range(needed))
            due += [(candidate, seed) for seed in self._missing(candidate) if seed in seeds]
        return sorted(due, key=lambda run: run[1])

    def _allocate(self) -> list[CandidateRun]:
        """Which runs come next; none if the stage is over."""
        allocator = self._allocator()
        if allocator is None:
            return []
        runs = allocator.next_runs(batch_size(len(self.results.candidates), self.policy))
        return [(self.results.by_point[point], seed) for point, seed in runs]

    def _allocator(self) -> RunAllocator | None:
        """What chooses among the missing and the paused runs; None without results."""
        results = self.results
        if results.selection is None or results.outlook is None:
            return None
        seeds = {
            c.index: [*self._missing(c), *results.summary(c).paused] for c in results.candidates
        }
        able = {
            c.point: c
            for c in results.candidates
            if c.point is not None and self._may_win(c, len(seeds[c.index]))
        }
        reference = able.get(results.selection.points[0]) or results.incumbent
        return RunAllocator(
            surrogate=results.outlook,
            selection=results.selection,
            candidates=able,
            baselines=frozenset(point for point, c in able.items() if results.is_baseline(c)),
            reference=reference.errors if reference else {},
            remaining=Remaining(
                missing={point: seeds[c.index] for point, c in able.items()},
                seeds=self.spec.search.seeds,
                left=self._left(self.policy.extra_runs),
                left_for_leader=self._left(self.policy.extra_runs_for_leader),
                rest=self._rest(results.candidates),
            ),
            pairs=self._pairs(),
            policy=self.policy,
        )

    def _may_win(self, candidate: CandidateResult, left: int) -> bool:
        """Whether the candidate may be chosen once it has run on the ``left`` seeds. A candidate
        that has diverged, or that failed without a result, may not."""
        is_lost = candidate.diverged > 0
        is_lost = is_lost or bool(candidate.failed and not candidate.errors)
        return not is_lost and len(candidate.errors) + left >= self.policy.min_runs_to_win

    def _pairs(self) -> int:
        """Number of seeds that the leader is to meet its reference on: their runs take the
        verdict's share of what may be trained."""
        policy, seeds = self.policy, self.spec.search.seeds
        most = max_runs(len(self.results.candidates), seeds, policy.extra_runs, policy)
        return min(seeds, max(policy.min_runs_to_win, int(policy.verdict_share * most / 2)))

    def _left(self, extra_runs: int) -> float:
        """Trainings of full length that are left when pruning is on, with extra runs beyond one per
        candidate; negative if more have begun."""
        candidates, seeds = len(self.results.candidates), self.spec.search.seeds
        return max_runs(candidates, seeds, extra_runs, self.policy) - self.results.spent

    # ---- runs in general ---------------------------------------------------------------------

    def _under_way(self) -> list[Run]:
        """The runs that are waiting or running."""
        return [
            (c.point, seed)
            for c in self.results.candidates
            if c.point is not None
            for seed in sorted(self.results.summary(c).open)
        ]

    def _paused(self) -> list[CandidateRun]:
        """The runs that are paused."""
        return [(c, s) for c in self.results.candidates for s in self.results.summary(c).paused]

    def _rest(self, candidates: Iterable[CandidateResult]) -> dict[Run, float]:
        """What is left of the trainings of some candidates' paused runs, as a share of each. One
        that was paused after its last report, as was possible once, counts as one report."""
        total = self.results.epochs
        return {
            (c.point, seed): max(1, total - trial.epochs) / total
            for c in candidates
            if c.point is not None
            for seed, trial in self.results.summary(c).paused.items()
        }

    def _begun_with(self, runs: Iterable[CandidateRun]) -> Following:
        """Some runs begin or, if they are paused, go on."""
        runs = list(runs)
        paused = [(c, seed) for c, seed in runs if seed in self.results.summary(c).paused]
        new = [run for run in runs if run not in paused]
        return Following(enqueue=self._requests(new), resume=self._trials(paused))

    def _trials(self, paused: Iterable[CandidateRun]) -> tuple[Trial, ...]:
        return tuple(self.results.summary(c).paused[seed] for c, seed in paused)

    def _requests(self, runs: Iterable[CandidateRun]) -> tuple[RunRequest, ...]:
        results = self.results
        return tuple(
            RunRequest(
                key=RunKey(results.number, candidate.index, seed),
                earlier_ks=results.earlier,
                k=candidate.k,
                bounds=results.space.bounds,
                protected=results.is_baseline(candidate),
                lr_max=candidate.lr_max,
                levels=results.space.searched_levels,
                point=candidate.whole,
            )
            for candidate, seed in runs
        )
