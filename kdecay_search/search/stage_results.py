"""What a stage has found so far: what its candidates' runs gave, and which of them is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

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
from kdecay_search.study.trials import CandidateTrials


@dataclass(frozen=True)
class StageRecords:
    """What is known when a stage is looked at."""

    spec: StudySpec
    """The study."""
    incumbent: Incumbent | None
    """What the stage before ended with; None in stage 1."""
    trials: Mapping[int, CandidateTrials]
    """The trials of each candidate that has some, by its index."""
    machines: Machines
    """What is known of the machines from this stage and earlier ones."""
    policy: Policy
    """The constants behind the decisions."""
    memo: Memo
    """What earlier plans have worked out."""


class StageResults:
    """The trials of one stage by candidate and run, and what they say about the candidates."""

    def __init__(self, records: StageRecords, space: Space) -> None:
        """
        Args:
            records: What is known.
            space: The candidates that the stage begins with.
        """
        spec, incumbent, policy = records.spec, records.incumbent, records.policy
        self.spec = spec
        self.policy = policy
        self.earlier = incumbent.ks if incumbent else ()
        self.number = len(self.earlier) + 1
        self.incumbent = incumbent
        self.epochs = spec.task.length.reports
        seeds, attempts = range(spec.search.seeds), spec.workers.max_attempts
        self.summaries = {
            index: records.memo.summary(
                trials, seeds, attempts, policy, records.machines, self.epochs
            )
            for index, trials in sorted(records.trials.items())
        }
        self._no_trials = CandidateSummary.of((), seeds, attempts, policy)
        self._limit = self._blow_up_limit()
        self._memo = records.memo
        self.space = space
        self._judge()
        # Repeat the growth that the records call for, from the space that the stage began with.
        while (larger := self._grown()) is not None:
            self.space = larger
            self._judge()

    def _judge(self) -> None:
        """Fit the surrogate to what the candidates gave, and choose the best."""
        self.candidates = tuple(self._candidate(i) for i in range(len(self.space.points)))
        self.by_point = {c.point: c for c in self.candidates if c.point is not None}
        self._worst = self._diverged()
        self._complete = self._results()
        self._looks = self._shown()
        self._has_looks = bool(self._looks.compared(self._complete))
        self.surrogate = self._fit()
        self.outlook = self.outlook_on()
        self.selection = self._select()
        best = self.lowest(self.candidates)
        self.best = self._with_probability(best) if best else None

    def _grown(self) -> Space | None:
        """The space with larger candidates, if the best one is the largest; else None."""
        return None if self.unfinished or not self._is_at_edge else self.space.grown(self.policy)

    # ---- the candidates ----------------------------------------------------------------------

    def summary(self, candidate: CandidateResult) -> CandidateSummary:
        """What came of a candidate's runs."""
        return self.summaries.get(candidate.index, self._no_trials)

    def is_baseline(self, candidate: CandidateResult) -> bool:
        """Whether a candidate is the original, at any level."""
        return self.number == 1 and candidate.k == BASELINE_KS[0]

    @property
    def unfinished(self) -> int:
        """Number of runs of the candidates that are waiting, running or still to be queued."""
        return sum(candidate.unfinished for candidate in self.candidates)

    @property
    def under_way(self) -> int:
        """Number of runs that are waiting or running."""
        return sum(len(summary.open) for summary in self.summaries.values())

    @property
    def begun(self) -> int:
        """Number of runs that have begun."""
        return sum(summary.begun for summary in self.summaries.values())

    @property
    def spent(self) -> float:
        """What the runs that have begun cost, in trainings of full length. Paused and pruned ones
        count by their epochs, the others as whole ones."""
        saved = sum(summary.saved for summary in self.summaries.values())
        return self.begun - saved / self.epochs

    def _candidate(self, index: int) -> CandidateResult:
        summary = self.summaries.get(index, self._no_trials)
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

    # ---- the surrogate -----------------------------------------------------------------------

    @property
    def noise(self) -> float:
        """Variance of the noise of a run; 0 without results."""
        return self.surrogate.noise if self.surrogate else 0.0

    def outlook_on(self, new: Iterable[Candidate] = ()) -> Surrogate | None:
        """The surrogate of the candidates and of new ones, by the results and by the looks of the
        runs that have not ended; None if there are neither."""
        points, lengths = self._points(new), self.surrogate.lengths if self.surrogate else ()
        if self._has_looks:
            return self._memo.outlook(points, self._complete, self._looks, self.policy, lengths)
        if self.surrogate is None or points == self.surrogate.points:
            return self.surrogate
        return self._memo.surrogate(points, self._complete, self.policy, lengths)

    def _fit(self) -> Surrogate | None:
        """The surrogate by the results of complete runs; None without any."""
        if not len(self._complete):
            return None
        return self._memo.surrogate(self._points(), self._complete, self.policy)

    def _points(self, new: Iterable[Candidate] = ()) -> tuple[Candidate, ...]:
        """What the candidates are compared with, the candidates, and new ones."""
        return tuple(dict.fromkeys([self._reference(), *self.by_point, *new]))

    def _results(self) -> Results:
        """What the surrogate learns from: the candidates' results, and those of what they are
        compared with.

        In stage 2 a further term equal to the first changes nothing: φ = (u^k1 + u^k1)/2. So the
        incumbent's results stand on the curve at k = k1, and in later stages at the last term,
        where that is nearly so.
        """
        earlier = self.incumbent.errors if self.incumbent else {}
        given = {point: self._learned(c) for point, c in self.by_point.items()}
        return Results.by_seed([(self._reference(), earlier), *given.items()])

    def _learned(self, candidate: CandidateResult) -> Mapping[int, float]:
        """What the surrogate learns of a candidate: errors by seed."""
        return candidate.errors

    def _reference(self) -> Candidate:
        """Where the results of what the candidates are compared with stand on the curve."""
        k = self.earlier[-1] if self.earlier else BASELINE_KS[0]
        return Candidate(k, self.space.levels[0])

    def _shown(self) -> Looks:
        """What the runs of the stage have shown at their looks."""
        shown = ((c.point, self.summary(c).looks) for c in self.candidates if c.point is not None)
        return Looks.of(self.epochs, shown)

    # ---- the best ----------------------------------------------------------------------------

    def baseline(self) -> Incumbent:
        """In stage 1: k = 1, at its best level if several were tried, which is chosen as any winner
        is."""
        tried = [c for c in self.candidates if self.is_baseline(c)]
        best = self.lowest(tried) or tried[0]
        return Incumbent(BASELINE_KS, best.errors, best.lr_max, best.diverged, best.whole)

    def lowest(self, candidates: Iterable[CandidateResult]) -> CandidateResult | None:
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

    def _select(self) -> Selection | None:
        """The candidates, judged, without those that rank worst because they have diverged; where
        the original was tried in several ways, the best of them comes first."""
        surrogate = self._chosen_by
        if surrogate is None:
            return None
        reference, *others = surrogate.points
        points = (reference, *(point for point in others if point not in self._worst))
        selection = Selection.of(surrogate, points)
        if not self._tunes_baseline:
            return selection
        self.selection = selection
        base = self.lowest([c for c in self.candidates if self.is_baseline(c)])
        if base is None or base.point is None:
            return selection
        among = (base.point, *(point for point in points if point != base.point))
        return Selection.of(surrogate, among)

    @property
    def _chosen_by(self) -> Surrogate | None:
        """What the best candidate is chosen by: the results and the looks of unfinished runs."""
        return self.outlook

    @property
    def _tunes_baseline(self) -> bool:
        """Whether the original is tried in several ways, such as at several levels."""
        return len(self.space.levels) > 1

    @property
    def _runs_to_win(self) -> int:
        """Complete runs without which no candidate is chosen while another has them."""
        return self.policy.min_runs_to_win

    @property
    def _is_at_edge(self) -> bool:
        """Whether the best candidate is the largest that the space holds."""
        k = self.best.k if self.best else None
        return k is not None and self.space.is_upper_edge(k)

    def _with_probability(self, candidate: CandidateResult) -> CandidateResult:
        if self.selection is None or candidate.point is None:
            return candidate
        if candidate.point in self._worst:
            return replace(candidate, probability=0.0)
        return replace(candidate, probability=self.selection.probability(candidate.point))

    # ---- where the stage stands --------------------------------------------------------------

    def stage(self, incumbent: Incumbent, to_go: int, is_running: bool) -> Stage:
        """Where the stage stands.

        Args:
            incumbent: What its best candidate is compared with; in stage 1, the baseline.
            to_go: Number of runs that are under way or still to be trained.
            is_running: Whether there are any.
        """
        best = self.best
        gain = paired_gain(incumbent.errors, best.errors if best else {})
        over = Progress.DONE if best else Progress.FAILED
        progress = Progress.RUNNING if is_running else over
        is_new = best is not None and (self.number > 1 or not self.is_baseline(best))
        smooth = None
        if self.selection is not None and best is not None and best.point is not None:
            smooth = self._gain(self.selection.points[0], best.point)
        is_better = self._is_better(gain, incumbent, smooth)
        return Stage(
            n=self.number,
            earlier_ks=self.earlier,
            candidates=tuple(self._with_probability(c) for c in self.candidates),
            progress=progress,
            to_go=to_go,
            best=best,
            gain=gain,
            leads=is_new and is_better,
            kept=progress == Progress.DONE and is_new and is_better,
            at_edge=self._is_at_edge,
            smooth_gain=smooth,
            lr_max=self.space.lr_max,
        )

    def _gain(self, reference: Candidate, best: Candidate) -> Gain:
        """By how much the best candidate improves on another. The surrogate takes the noise of all
        candidates as one, so the interval is widened where these two are noisier."""
        gain = Selection.of(self._judging, (reference, best)).gain(best)
        results = self._judging.results
        return gain.widened(results.uneven_noise((reference, best), self.policy))

    @property
    def _judging(self) -> Surrogate:
        """The surrogate that candidates are compared by, once some run is complete. Which looks
        there are depends on what they showed: a claim rests on the ends alone."""
        assert self.surrogate is not None
        return self.surrogate

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

    def _min_gain(self, pairs: int) -> float:
        """By how much a term must lower the mean error, over some pairs of runs, to be kept."""
        stated = self.spec.search.min_gain
        if stated != "auto":
            return stated
        return self.policy.min_gain_errors * math.sqrt(2 * self.noise / pairs)
