"""What a stage has found, and which runs it needs next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kdecay_search.search.allocation import Remaining, RunAllocator, batch_size, max_runs
from kdecay_search.search.knowledge_gradient import Run
from kdecay_search.search.looks import Looks
from kdecay_search.search.machines import Machines
from kdecay_search.search.policy import Policy
from kdecay_search.search.results import Results, blow_up_limit
from kdecay_search.search.selection import Gain, Selection
from kdecay_search.search.space import Space
from kdecay_search.search.stage import CandidateResult, Incumbent, Progress, Stage
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.search.tally import CandidateSummary, Memo
from kdecay_search.statistics import Sample, paired_gain
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, CandidateTrials, RunKey, RunRequest, Trial

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
    """The trials of one stage by candidate and run, and what follows from them."""

    def __init__(
        self,
        spec: StudySpec,
        incumbent: Incumbent | None,
        space: Space,
        replicates: Mapping[int, CandidateTrials],
        machines: Machines,
        policy: Policy,
        memo: Memo,
    ) -> None:
        """
        Args:
            spec: The study.
            incumbent: What the stage before ended with; None in stage 1.
            space: The candidates that the stage begins with.
            replicates: The trials of each candidate that has some, by its index.
            machines: What is known of the machines from this stage and earlier ones.
            policy: The constants behind the decisions.
            memo: What earlier plans have worked out.
        """
        self.spec = spec
        self.policy = policy
        self.earlier = incumbent.ks if incumbent else ()
        self.number = len(self.earlier) + 1
        self.incumbent = incumbent
        seeds, attempts = range(spec.search.seeds), spec.workers.max_attempts
        self._epochs = spec.task.length.reports
        self.summaries = {
            index: memo.summary(trials, seeds, attempts, policy, machines, self._epochs)
            for index, trials in sorted(replicates.items())
        }
        self._no_trials = CandidateSummary.of((), seeds, attempts, policy)
        self._limit = self._blow_up_limit()
        self._memo = memo
        self.space = space
        self._judge()
        # Repeat the growth that the records call for, from the space that the stage began with.
        while (larger := self._grown()) is not None:
            self.space = larger
            self._judge()

    def _judge(self) -> None:
        """Fit the surrogate to what the candidates gave, and choose the best."""
        self.candidates = tuple(self._candidate(i) for i in range(len(self.space.points)))
        self._worst = self._diverged()
        results = self._results()
        self._looks = self._shown()
        self._has_looks = bool(self._looks.compared(results))
        self._surrogate = self._fit(results)
        self._outlook = self._with_looks(results)
        self.selection = self._select()
        best = self._lowest(self.candidates)
        self.best = self._with_probability(best) if best else None

    def _grown(self) -> Space | None:
        """The space with larger candidates, if the best one is the largest; else None."""
        k = self.best.k if self.best else None
        if k is None or self._unfinished() or not self.space.is_upper_edge(k):
            return None
        return self.space.grown(self.policy)

    def _blow_up_limit(self) -> float:
        """The error above which a run that ended worse than it began counts as diverged."""
        usual: list[float] = []
        for summary in self.summaries.values():
            errors, worsened = summary.errors, summary.worsened
            some = (error for seed, error in errors.items() if seed not in worsened)
            usual += some if worsened else errors.values()
        return blow_up_limit(usual, self.policy)

    def _diverged(self) -> frozenset[Candidate]:
        """The candidates that rank worst because a run of theirs has diverged; none if no other
        candidate has a result."""
        if not any(c.errors and not c.diverged for c in self.candidates):
            return frozenset()
        return frozenset(c.point for c in self.candidates if c.diverged and c.point is not None)

    def baseline(self) -> Incumbent:
        """In stage 1: k = 1, at its best level if several were tried, which is chosen as any winner
        is."""
        tried = [c for c in self.candidates if self._is_baseline(c)]
        best = self._lowest(tried) or tried[0]
        return Incumbent(BASELINE_KS, best.errors, best.lr_max, best.diverged, best.whole)

    @property
    def begun(self) -> int:
        """Number of runs that have begun."""
        return sum(summary.begun for summary in self.summaries.values())

    @property
    def spent(self) -> float:
        """What the runs that have begun cost, in trainings of full length. Paused and pruned ones
        count by their epochs, the others as whole ones."""
        saved = sum(summary.saved for summary in self.summaries.values())
        return self.begun - saved / self._epochs

    @property
    def noise(self) -> float:
        """Variance of the noise of a run; 0 without results."""
        return self._surrogate.noise if self._surrogate else 0.0

    def stage(self, incumbent: Incumbent) -> Stage:
        """Where the stage stands.

        Args:
            incumbent: What its best candidate is compared with; in stage 1, the baseline.
        """
        best = self.best
        gain = paired_gain(incumbent.errors, best.errors if best else {})
        if self._is_running():
            progress = Progress.RUNNING
        else:
            progress = Progress.DONE if best else Progress.FAILED
        is_new = best is not None and (self.number > 1 or not self._is_baseline(best))
        smooth = None
        if self.selection is not None and best is not None and best.point is not None:
            smooth = self._gain(self.selection, best.point)
        is_better = self._is_better(gain, incumbent, smooth)
        return Stage(
            n=self.number,
            earlier_ks=self.earlier,
            candidates=tuple(self._with_probability(c) for c in self.candidates),
            progress=progress,
            to_go=self._to_go(),
            best=best,
            gain=gain,
            leads=is_new and is_better,
            kept=progress == Progress.DONE and is_new and is_better,
            at_edge=self._is_at_edge(),
            smooth_gain=smooth,
            lr_max=self.space.lr_max,
        )

    def _is_better(self, gain: Sample, incumbent: Incumbent, smooth: Gain | None) -> bool:
        """Whether the best candidate improves on the incumbent by enough to be kept.

        Args:
            gain: The difference paired by seed.
            incumbent: What the best candidate is compared with.
            smooth: The difference by the smooth curve; None without results.
        """
        gained = gain.mean
        pairs = min(self.policy.min_runs_to_win, self.spec.search.seeds)
        if gain.n < pairs and incumbent.errors and smooth is not None:
            gained = smooth.mean  # they have met on too few seeds
        return gained is None or gained > self._min_gain(max(gain.n, 1))

    def _is_running(self) -> bool:
        """Whether the stage has runs that are under way or still to come."""
        return bool(self._unfinished())

    def _is_at_edge(self) -> bool:
        """Whether the best candidate is the largest that the space holds."""
        k = self.best.k if self.best else None
        return k is not None and self.space.is_upper_edge(k)

    def _gain(self, selection: Selection, best: Candidate) -> Gain:
        """By how much the best candidate improves on the reference. The surrogate takes the noise
        of all candidates as one, so the interval is widened where these two are noisier."""
        reference = selection.points[0]
        if self._surrogate is None or best == reference:
            return selection.gain(best)
        # Which looks there are depends on what they showed: a claim rests on the ends alone.
        gain = Selection.of(self._surrogate, (reference, best)).gain(best)
        results = self._surrogate.results
        return gain.widened(results.uneven_noise((reference, best), self.policy))

    def following(self) -> Following:
        """What becomes of the runs that no open or finished trial serves."""
        if self.spec.pruning.enabled:
            due = self._due()
            if due or any(self._summary(c.index).open for c in self.candidates):
                return self._begun_with(due)
            further = self._allocate()
            if further:
                return self._begun_with(further)
        missing = [(c, seed) for c in self.candidates for seed in self._missing(c)]
        missing.sort(key=lambda run: run[1])
        paused = [(c, s) for c in self.candidates for s in self._summary(c.index).paused]
        if not self.spec.pruning.enabled:
            return self._begun_with([*missing, *paused])
        return Following(skip=self._requests(missing), close=self._paused(paused))

    def _missing(self, candidate: CandidateResult) -> list[int]:
        """Seeds of the candidate's runs that no trial serves; the first alone where the sampler
        has not chosen k yet."""
        seeds = sorted(self._summary(candidate.index).missing)
        return seeds if candidate.k is not None else [s for s in seeds if s == FIRST_SEED]

    def _due(self) -> list[CandidateRun]:
        """The runs that are needed however the others end: a part of the candidates begins on the
        first seed and, if there is one level, the baseline on the second; and failed runs are
        tried again."""
        needed = self.policy.min_runs_to_win
        later = self.space.later if self.spec.search.seeds > needed else frozenset()
        has_level = len(self.space.levels) == 1
        due: list[CandidateRun] = []
        for candidate in self.candidates:
            seeds = set(self._summary(candidate.index).retry)
            if candidate.index not in later:
                seeds.add(FIRST_SEED)
            if has_level and self._is_baseline(candidate):
                seeds |= set(range(needed))
            due += [(candidate, seed) for seed in self._missing(candidate) if seed in seeds]
        return sorted(due, key=lambda run: run[1])

    def _begun_with(self, runs: Iterable[CandidateRun]) -> Following:
        """Some runs begin or, if they are paused, go on."""
        runs = list(runs)
        paused = [(c, seed) for c, seed in runs if seed in self._summary(c.index).paused]
        new = [run for run in runs if run not in paused]
        return Following(enqueue=self._requests(new), resume=self._paused(paused))

    def _paused(self, runs: Iterable[CandidateRun]) -> tuple[Trial, ...]:
        return tuple(self._summary(c.index).paused[seed] for c, seed in runs)

    def redundant(self) -> Iterator[Trial]:
        """Open trials of runs that another trial serves."""
        for summary in self.summaries.values():
            yield from summary.redundant

    def _allocate(self) -> list[CandidateRun]:
        """Which runs come next; none if the stage is over."""
        allocator = self._allocator()
        if allocator is None:
            return []
        runs = allocator.next_runs(batch_size(len(self.candidates), self.policy))
        of_point = {c.point: c for c in self.candidates}
        return [(of_point[point], seed) for point, seed in runs]

    def goes_on(self, index: int, seed: int) -> bool:
        """Whether a paused run should train on now, while others are under way."""
        point = self.candidates[index].point
        allocator = self._allocator()
        if allocator is None or point is None:
            return True
        return allocator.goes_on((point, seed), self._under_way())

    def _under_way(self) -> list[Run]:
        """The runs that are waiting or running."""
        return [
            (c.point, seed)
            for c in self.candidates
            if c.point is not None
            for seed in sorted(self._summary(c.index).open)
        ]

    def _allocator(self) -> RunAllocator | None:
        """What chooses among the missing and the paused runs; None without results."""
        if self.selection is None or self._outlook is None:
            return None
        seeds = {
            c.index: [*self._missing(c), *self._summary(c.index).paused] for c in self.candidates
        }
        able = {
            c.point: c
            for c in self.candidates
            if c.point is not None and self._may_win(c, len(seeds[c.index]))
        }
        reference = able.get(self.selection.points[0]) or self.incumbent
        return RunAllocator(
            surrogate=self._outlook,
            selection=self.selection,
            candidates=able,
            baselines=frozenset(point for point, c in able.items() if self._is_baseline(c)),
            reference=reference.errors if reference else {},
            remaining=Remaining(
                missing={point: seeds[c.index] for point, c in able.items()},
                seeds=self.spec.search.seeds,
                left=self._left(self.policy.extra_runs),
                left_for_leader=self._left(self.policy.extra_runs_for_leader),
                rest=self._rest(self.candidates),
            ),
            pairs=self._pairs(),
            policy=self.policy,
        )

    def _rest(self, candidates: Iterable[CandidateResult]) -> dict[Run, float]:
        """What is left of the trainings of some candidates' paused runs, as a share of each."""
        return {
            (c.point, seed): 1 - trial.epochs / self._epochs
            for c in candidates
            if c.point is not None
            for seed, trial in self._summary(c.index).paused.items()
        }

    def _pairs(self) -> int:
        """Number of seeds that the leader is to meet its reference on: their runs take the
        verdict's share of what may be trained."""
        policy, seeds = self.policy, self.spec.search.seeds
        most = max_runs(len(self.candidates), seeds, policy.extra_runs, policy)
        return min(seeds, max(policy.min_runs_to_win, int(policy.verdict_share * most / 2)))

    def _may_win(self, candidate: CandidateResult, left: int) -> bool:
        """Whether the candidate may be chosen once it has run on the ``left`` seeds. A candidate
        that has diverged, or that failed without a result, may not."""
        is_lost = candidate.diverged > 0
        is_lost = is_lost or bool(candidate.failed and not candidate.errors)
        return not is_lost and len(candidate.errors) + left >= self.policy.min_runs_to_win

    def _fit(self, results: Results) -> Surrogate | None:
        """The surrogate of the candidates and of what they are compared with, which comes first;
        None without results.

        In stage 2 a further term equal to the first changes nothing: φ = (u^k1 + u^k1)/2. So the
        incumbent's results stand on the curve at k = k1, and in later stages at the last term,
        where that is nearly so.
        """
        if not len(results):
            return None
        points = tuple(dict.fromkeys(results.points))
        return self._memo.surrogate(points, results, self.policy)

    def _results(self) -> Results:
        """What the surrogate learns from."""
        earlier = self.incumbent.errors if self.incumbent else {}
        given = {c.point: self._learned(c) for c in self.candidates if c.point is not None}
        return Results.by_seed([(self._reference(), earlier), *given.items()])

    def _with_looks(self, results: Results) -> Surrogate | None:
        """The surrogate by the results and by the looks of the runs that have not ended; the same
        as by the results alone if there are none."""
        if not self._has_looks:
            return self._surrogate
        lengths = self._surrogate.lengths if self._surrogate else ()
        return self._memo.outlook(self._points(), results, self._looks, self.policy, lengths)

    def _points(self) -> tuple[Candidate, ...]:
        """What the candidates are compared with, and the candidates."""
        given = (c.point for c in self.candidates if c.point is not None)
        return tuple(dict.fromkeys([self._reference(), *given]))

    def _shown(self) -> Looks:
        """What the runs of the stage have shown at their looks."""
        shown = (
            (c.point, self._summary(c.index).looks) for c in self.candidates if c.point is not None
        )
        return Looks.of(self._epochs, shown)

    def _learned(self, candidate: CandidateResult) -> Mapping[int, float]:
        """What the surrogate learns of a candidate: errors by seed."""
        return candidate.errors

    def _reference(self) -> Candidate:
        """Where the results of what the candidates are compared with stand on the curve."""
        k = self.earlier[-1] if self.earlier else BASELINE_KS[0]
        return Candidate(k, self.space.levels[0])

    def _select(self) -> Selection | None:
        """The candidates, judged, without those that rank worst because they have diverged; where
        the original was tried in several ways, the best of them comes first."""
        if self._outlook is None:
            return None
        reference, *others = self._outlook.points
        points = (reference, *(point for point in others if point not in self._worst))
        selection = Selection.of(self._outlook, points)
        if not self._tunes_baseline:
            return selection
        self.selection = selection
        base = self._lowest([c for c in self.candidates if self._is_baseline(c)])
        if base is None or base.point is None:
            return selection
        among = (base.point, *(point for point in points if point != base.point))
        return Selection.of(self._outlook, among)

    @property
    def _tunes_baseline(self) -> bool:
        """Whether the original is tried in several ways, such as at several levels."""
        return len(self.space.levels) > 1

    @property
    def _runs_to_win(self) -> int:
        """Complete runs without which no candidate is chosen while another has them."""
        return self.policy.min_runs_to_win

    def _lowest(self, candidates: Iterable[CandidateResult]) -> CandidateResult | None:
        """The lowest point of the smooth curve among the candidates with ``min_runs_to_win``
        complete runs or more; with one or more, if none has so many."""
        if self.selection is None:
            return None
        tried = [(c, c.point) for c in candidates if c.errors and c.point not in self._worst]
        most = max((len(c.errors) for c, _ in tried), default=0)
        needed = min(self._runs_to_win, most)
        ranked = [
            (self.selection.mean(point), point, c)
            for c, point in tried
            if point is not None and len(c.errors) >= needed
        ]
        return min(ranked, key=lambda each: each[:2])[2] if ranked else None

    def _left(self, extra_runs: int) -> float:
        """Trainings of full length that are left when pruning is on, with extra runs beyond one per
        candidate; negative if more have begun."""
        seeds = self.spec.search.seeds
        return max_runs(len(self.candidates), seeds, extra_runs, self.policy) - self.spent

    def _min_gain(self, pairs: int) -> float:
        """By how much a term must lower the mean error, over some pairs of runs, to be kept."""
        stated = self.spec.search.min_gain
        if stated != "auto":
            return stated
        return self.policy.min_gain_errors * math.sqrt(2 * self.noise / pairs)

    def _unfinished(self) -> int:
        return sum(candidate.unfinished for candidate in self.candidates)

    def _to_go(self) -> int:
        if not self.spec.pruning.enabled:
            return self._unfinished()
        under_way = sum(len(summary.open) for summary in self.summaries.values())
        left = math.ceil(max(0.0, self._left(self.policy.extra_runs)))
        return min(self._unfinished(), left + under_way)

    def _requests(self, runs: Iterable[CandidateRun]) -> tuple[RunRequest, ...]:
        return tuple(
            RunRequest(
                key=RunKey(self.number, candidate.index, seed),
                earlier_ks=self.earlier,
                k=candidate.k,
                bounds=self.space.bounds,
                protected=self._is_baseline(candidate),
                lr_max=candidate.lr_max,
                levels=self.space.searched_levels,
                point=candidate.whole,
            )
            for candidate, seed in runs
        )

    def _is_baseline(self, candidate: CandidateResult) -> bool:
        return self.number == 1 and candidate.k == BASELINE_KS[0]

    def _summary(self, index: int) -> CandidateSummary:
        return self.summaries.get(index, self._no_trials)

    def _candidate(self, index: int) -> CandidateResult:
        summary = self._summary(index)
        point, failed = self.space.points[index], summary.failed
        if point is None:
            known = summary.point
            point = known if known and known.lr_max in self.space.levels else None
            if point is None and failed:
                failed = self.spec.search.seeds  # its k never came to be: no seed can run
        ended = summary.complete + summary.pruned + failed
        blown_up = {seed for seed in summary.worsened if summary.errors[seed] > self._limit}
        return CandidateResult(
            index=index,
            k=point.k if point else None,
            errors=(
                {s: error for s, error in summary.errors.items() if s not in blown_up}
                if blown_up
                else summary.errors
            ),
            diverged=len(summary.diverged) + len(blown_up),
            pruned=summary.pruned,
            skipped=summary.skipped,
            failed=failed,
            unfinished=self.spec.search.seeds - ended,
            lr_max=point.lr_max if point else self.space.lr_max,
        )

    def _with_probability(self, candidate: CandidateResult) -> CandidateResult:
        if self.selection is None or candidate.point is None:
            return candidate
        if candidate.point in self._worst:
            return replace(candidate, probability=0.0)
        return replace(candidate, probability=self.selection.probability(candidate.point))
