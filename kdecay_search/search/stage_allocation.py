"""The book of a stage: its trials by candidate and run, and what is to be done about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kdecay_search.search import allocation as race
from kdecay_search.search.allocators import RUNS_TO_WIN, Field
from kdecay_search.search.selection import Gain, Selection, choose
from kdecay_search.search.space import Space
from kdecay_search.search.stage import CandidateResult, Incumbent, Progress, Stage
from kdecay_search.search.surrogate import Results
from kdecay_search.search.tally import CandidateSummary, summary_of
from kdecay_search.statistics import paired_gain
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import Replicates, RunKey, RunRequest, Trial

FIRST_SEED = 0


class StagePlanner:
    """The trials of one stage, sorted into its candidates and runs."""

    def __init__(
        self,
        spec: StudySpec,
        incumbent: Incumbent | None,
        space: Space,
        replicates: Mapping[int, Replicates],
    ) -> None:
        """``incumbent``: what the stage before ended with; None in stage 1. ``replicates``: the
        trials of each candidate that has some."""
        self.spec = spec
        self.earlier = incumbent.ks if incumbent else ()
        self.number = len(self.earlier) + 1
        self.incumbent = incumbent
        seeds = range(spec.search.seeds)
        self.summaries = {
            index: summary_of(trials, seeds, spec.workers.max_attempts)
            for index, trials in sorted(replicates.items())
        }
        self.untouched = CandidateSummary.of((), seeds, spec.workers.max_attempts)
        self.space = space
        self._grow()

    def _grow(self) -> None:
        """Repeat the growth that the records call for, from the space that the stage began with."""
        while True:
            self.candidates = tuple(self._candidate(i) for i in range(len(self.space.points)))
            self.choice = self._judge()
            best = self._best()
            if best is None or best.k is None or self._unfinished():
                return
            larger = self.space.grown() if self.space.is_upper_edge(best.k) else None
            if larger is None:
                return
            self.space = larger

    def baseline(self) -> Incumbent:
        """Of stage 1: k = 1, at its best level where several were tried. It is chosen as any
        winner is."""
        tried = [c for c in self.candidates if self._is_baseline(c)]
        best = _lowest(tried, self.choice) or tried[0]
        return Incumbent(BASELINE_KS, best.errors, best.lr_max)

    def stage(self, incumbent: Incumbent) -> Stage:
        best = self._best()
        gain = paired_gain(incumbent.errors, best.errors if best else {})
        if self._unfinished():
            progress = Progress.RUNNING
        else:
            progress = Progress.DONE if best else Progress.FAILED
        is_new = best is not None and (self.number > 1 or best.k != BASELINE_KS[0])
        smooth = self._smooth_gain(best)
        gained = gain.mean
        pairs = min(RUNS_TO_WIN, self.spec.search.seeds)
        if gain.n < pairs and incumbent.errors and smooth is not None:
            gained = smooth.mean  # they have met on too few seeds
        is_better = gained is None or gained > self.spec.search.min_gain
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
            at_edge=best is not None and best.k is not None and self.space.is_upper_edge(best.k),
            smooth_gain=smooth,
            lr_max=self.space.lr_max,
        )

    def missing(self) -> tuple[tuple[RunRequest, ...], tuple[RunRequest, ...]]:
        """Runs that no open or finished trial serves: those to queue, and those to skip."""
        lacking = [
            (candidate, seed)
            for candidate in self.candidates
            for seed in self._summary(candidate.index).lacking
            if candidate.k is not None or seed == FIRST_SEED  # where the sampler chooses k
        ]
        lacking.sort(key=lambda run: run[1])
        if not self.spec.pruning.enabled:
            return self._requests(lacking), ()
        begun = [(c, seed) for c, seed in lacking if self._is_begun(c, seed)]
        if begun or any(self._summary(c.index).open for c in self.candidates):
            return self._requests(begun), ()
        further = self._race(lacking)
        return (self._requests(further), ()) if further else ((), self._requests(lacking))

    def _is_begun(self, candidate: CandidateResult, seed: int) -> bool:
        """Whether this run is due however the others end: the race begins with a part of the
        candidates on the first seed and, where it has one level, the baseline on the second."""
        if seed in self._summary(candidate.index).again:
            return True
        seeds = self.spec.search.seeds
        later = self.space.later if seeds > RUNS_TO_WIN else frozenset()
        has_level = len(self.space.levels) == 1
        pair = seed < RUNS_TO_WIN and has_level and self._is_baseline(candidate)
        return pair or (seed == FIRST_SEED and candidate.index not in later)

    def _race(
        self, lacking: Sequence[tuple[CandidateResult, int]]
    ) -> list[tuple[CandidateResult, int]]:
        """Which of the runs that are ``lacking`` come next (:mod:`kdecay_search.search.allocation`); none if the
        race is over."""
        judged = self.choice
        if judged is None:
            return []
        seeds: dict[int, list[int]] = defaultdict(list)
        for candidate, seed in lacking:
            seeds[candidate.index].append(seed)
        able = {
            c.point: c
            for c in self.candidates
            if c.point is not None and _may_win(c, len(seeds[c.index]))
        }
        rival = able.get(judged.points[0])
        met = rival or self.incumbent
        field = Field(
            judged=judged,
            known=self._known(),
            candidates=able,
            baselines=frozenset(point for point, c in able.items() if self._is_baseline(c)),
            rival=met.errors if met else {},
            track=race.Track(
                lacking={point: seeds[c.index] for point, c in able.items()},
                seeds=self.spec.search.seeds,
                left=self._left(race.SPARE),
                left_for_leader=self._left(race.SPARE_FOR_LEADER),
            ),
        )
        runs = field.next_runs(race.batch_size(len(self.candidates)))
        return [(able[point], seed) for point, seed in runs]

    def _judge(self) -> Selection | None:
        """The candidates, and first what they are compared with."""
        points, results = self._known()
        if not len(results):
            return None
        judged = choose(points, results)
        if len(self.space.levels) == 1:
            return judged
        base = _lowest([c for c in self.candidates if self._is_baseline(c)], judged)
        among = _first(base.point, points) if base and base.point else points
        return choose(points, results, among)

    def _known(self) -> tuple[tuple[Candidate, ...], Results]:
        """What a choice is made from: the candidates, first what they are compared with (or one of
        the baseline's levels), and the results.

        In stage 2 a further term equal to the first changes nothing: φ = (u^k1 + u^k1)/2. So the
        incumbent's results stand on the curve at k = k1, and at the last term in later stages,
        where that is nearly so.
        """
        k = self.earlier[-1] if self.earlier else BASELINE_KS[0]
        reference = Candidate(k, self.space.levels[0])
        earlier = self.incumbent.errors if self.incumbent else {}
        given = {c.point: c.errors for c in self.candidates if c.point is not None}
        results = Results.by_seed([(reference, earlier), *given.items()])
        return (reference, *(point for point in given if point != reference)), results

    def _left(self, spare: int) -> int:
        """Runs that a race may still begin; negative where it has begun more. ``spare``: more than
        there are candidates, where half of the grid is less."""
        begun = sum(summary.begun for summary in self.summaries.values())
        return race.runs_at_most(len(self.candidates), self.spec.search.seeds, spare) - begun

    def _unfinished(self) -> int:
        return sum(candidate.unfinished for candidate in self.candidates)

    def _to_go(self) -> int:
        if not self.spec.pruning.enabled:
            return self._unfinished()
        under_way = sum(len(summary.open) for summary in self.summaries.values())
        return min(self._unfinished(), max(0, self._left(race.SPARE)) + under_way)

    def redundant(self) -> Iterable[Trial]:
        for summary in self.summaries.values():
            yield from summary.redundant

    def _requests(self, runs: Iterable[tuple[CandidateResult, int]]) -> tuple[RunRequest, ...]:
        return tuple(self._request(candidate, seed) for candidate, seed in runs)

    def _request(self, candidate: CandidateResult, seed: int) -> RunRequest:
        return RunRequest(
            key=RunKey(self.number, candidate.index, seed),
            earlier_ks=self.earlier,
            k=candidate.k,
            bounds=self.space.bounds,
            protected=self._is_baseline(candidate),
            lr_max=candidate.lr_max,
            levels=self.space.searched_levels,
        )

    def _is_baseline(self, candidate: CandidateResult) -> bool:
        return self.number == 1 and candidate.k == BASELINE_KS[0]

    def _summary(self, index: int) -> CandidateSummary:
        return self.summaries.get(index, self.untouched)

    def _candidate(self, index: int) -> CandidateResult:
        summary = self._summary(index)
        point, failed = self.space.points[index], summary.failed
        if point is None:
            known = summary.point
            point = known if known and known.lr_max in self.space.levels else None
            if point is None and failed:
                failed = self.spec.search.seeds  # its k never came to be: no seed can run
        return CandidateResult(
            index=index,
            k=point.k if point else None,
            errors=summary.errors,
            pruned=summary.pruned,
            skipped=summary.skipped,
            failed=failed,
            unfinished=self.spec.search.seeds - summary.complete - summary.pruned - failed,
            lr_max=point.lr_max if point else self.space.lr_max,
        )

    def _best(self) -> CandidateResult | None:
        best = _lowest(self.candidates, self.choice)
        return self._with_probability(best) if best else None

    def _with_probability(self, candidate: CandidateResult) -> CandidateResult:
        if self.choice is None or candidate.point is None:
            return candidate
        return replace(candidate, probability=self.choice.probability(candidate.point))

    def _smooth_gain(self, best: CandidateResult | None) -> Gain | None:
        if self.choice is None or best is None or best.point is None:
            return None
        return self.choice.gain(best.point)


def _lowest(
    candidates: Iterable[CandidateResult], choice: Selection | None
) -> CandidateResult | None:
    """The lowest point of the smooth curve among candidates with ``RUNS_TO_WIN`` complete runs or
    more (one, where none has so many)."""
    tried = [(c, c.point) for c in candidates if c.errors and c.point is not None]
    runs = min(RUNS_TO_WIN, max((len(c.errors) for c, _ in tried), default=0))
    if choice is None:
        return None
    judged = [(choice.mean(point), point, c) for c, point in tried if len(c.errors) >= runs]
    return min(judged, key=lambda each: each[:2])[2] if judged else None


def _may_win(candidate: CandidateResult, left: int) -> bool:
    """Whether the candidate may be chosen if it runs on the seeds that are ``left``. Who ended
    early, or failed without a result, may not."""
    is_lost = candidate.pruned > candidate.skipped or (candidate.failed and not candidate.errors)
    return not is_lost and len(candidate.errors) + left >= RUNS_TO_WIN


def _first(point: Candidate, points: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """``points``, this one of them before the others."""
    return (point, *(other for other in points if other != point))
