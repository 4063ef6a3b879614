"""The book of a stage: its trials by candidate and run, and what is to be done about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from kdecay_search import race
from kdecay_search.accounts import Account, account_of
from kdecay_search.choice import Choice, Gain, believe, choose
from kdecay_search.controls import BASELINE_KS
from kdecay_search.point import Point
from kdecay_search.procedure.space import Space
from kdecay_search.procedure.stage import Candidate, Incumbent, Progress, Stage
from kdecay_search.regression import Results
from kdecay_search.runs import Replicates, RunKey, Token, Trial
from kdecay_search.spec import StudySpec
from kdecay_search.statistics import paired_gain

FIRST_SEED = 0
RUNS_TO_WIN = 2
"""Complete runs without which no candidate is chosen where others have them."""


class Book:
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
        self.accounts = {
            index: account_of(trials, seeds, spec.workers.max_attempts)
            for index, trials in sorted(replicates.items())
        }
        self.untouched = Account.of((), seeds, spec.workers.max_attempts)
        self.space = space
        self._grow()

    def _grow(self) -> None:
        """Repeat the growth that the records call for, from the space that the stage began with."""
        while True:
            self.candidates = tuple(self._candidate(i) for i in range(len(self.space.points)))
            self.choice = self._judge(self.spec.search.seeds)
            best = self._best()
            if best is None or best.k is None or any(c.unfinished for c in self.candidates):
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
        if any(candidate.unfinished for candidate in self.candidates):
            progress = Progress.RUNNING
        else:
            progress = Progress.DONE if best else Progress.FAILED
        is_new = best is not None and (self.number > 1 or best.k != BASELINE_KS[0])
        has_rival = bool(incumbent.errors)
        is_better = not has_rival if gain.mean is None else gain.mean > self.spec.search.min_gain
        return Stage(
            n=self.number,
            earlier_ks=self.earlier,
            candidates=tuple(self._with_probability(c) for c in self.candidates),
            progress=progress,
            best=best,
            gain=gain,
            leads=is_new and is_better,
            kept=progress == Progress.DONE and is_new and is_better,
            at_edge=best is not None and best.k is not None and self.space.is_upper_edge(best.k),
            smooth_gain=self._smooth_gain(best),
            lr_max=self.space.lr_max,
        )

    def missing(self) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
        """Runs that no open or finished trial serves: those to queue, and those to skip."""
        races = self.spec.pruning.enabled
        enqueue: list[Token] = []
        skip: list[Token] = []
        for seed in self._unended():
            lacking = [c for c in self.candidates if self._needs_trial(c, seed)]
            runners = self._runners(seed) if races and lacking else self.candidates
            racing = {candidate.index for candidate in runners}
            for candidate in lacking:
                queue = enqueue if candidate.index in racing else skip
                queue.append(self._token(candidate, seed))
            if races and not self._is_over(seed):
                enqueue += self._certain(seed + 1)
                break
        return tuple(enqueue), tuple(skip)

    def _certain(self, seed: int) -> list[Token]:
        """Runs of a further seed that will be needed however the one before ends: the baseline's,
        unless it depends on that at which levels it goes on."""
        if len(self.space.levels) > 1 or not seed == race.SECOND_SEED < self.spec.search.seeds:
            return []
        certain = [c for c in self.candidates if self._is_baseline(c)]
        return [self._token(c, seed) for c in certain if self._needs_trial(c, seed)]

    def _unended(self) -> list[int]:
        """Seeds on which some run has not ended: the others need nothing."""
        unended = (self._account(c.index).unended for c in self.candidates)
        return sorted(frozenset().union(*unended))

    def _is_over(self, seed: int) -> bool:
        """Whether every candidate's run on this seed has ended."""
        return not any(seed in self._account(c.index).unended for c in self.candidates)

    def _runners(self, seed: int) -> list[Candidate]:
        """Who runs on a seed: first a part of the candidates, spread over the grid, and then those
        that win the race (:mod:`kdecay_search.race`). Who was not among them on one seed may be on
        the next, but for those that ended early, or failed."""
        if seed == FIRST_SEED:
            later = self.space.later if self.spec.search.seeds > RUNS_TO_WIN else frozenset()
            return [c for c in self.candidates if c.index not in later]
        judged = self._judge(seed)
        if judged is None:
            return [c for c in self.candidates if self._is_baseline(c)]
        eligible = {
            c.point: c
            for c in self.candidates
            if c.point is not None and not self._is_baseline(c) and self._may_win(c, seed)
        }
        runners = self._winners(judged, race.likely(judged, eligible), seed)
        return [*self._baselines(judged, runners, seed), *(eligible[point] for point in runners)]

    def _may_win(self, candidate: Candidate, seed: int) -> bool:
        """Whether the candidate may still be chosen if it goes on with this seed."""
        is_lost = FIRST_SEED not in candidate.errors and (
            candidate.pruned > candidate.skipped or candidate.failed > 0
        )
        left = self.spec.search.seeds - seed
        return not is_lost and len(candidate.errors) + left >= RUNS_TO_WIN

    def _winners(self, judged: Choice, points: Sequence[Point], seed: int) -> list[Point]:
        """Of ``points``, who wins a run on this seed."""
        rival = judged.points[0]
        there = self.incumbent.errors if self.incumbent else {}
        is_certain = seed in there or (self.number == 1 and seed == race.SECOND_SEED)
        belief = believe(*self._known(seed), dict.fromkeys((rival, *points)))
        return race.winners(belief, rival, points, [rival] if is_certain else [], seed)

    def _baselines(
        self, judged: Choice, runners: Sequence[Point], seed: int
    ) -> Iterator[Candidate]:
        """At which levels the baseline gets a further seed. They have a race of their own, by the
        rules of the others'; who may win it goes on while a runner may not be better."""
        tried = {c.point: c for c in self.candidates if c.point and self._is_baseline(c)}
        contenders = judged.points[:1] if tried else ()
        if len(self.space.levels) > 1:
            group = _first(judged.points[0], tried)
            belief = believe(*self._known(seed), group)
            contenders += tuple(race.worthwhile(belief, group[:1], group[1:]))
        for point in contenders:
            against = judged
            if point != judged.points[0]:
                against = choose(*self._known(seed), among=_first(point, judged.points))
            if race.needs_baseline(against, runners, seed):
                yield tried[point]

    def _judge(self, seeds: int) -> Choice | None:
        """The candidates, and first what they are compared with, by the first ``seeds`` seeds."""
        points, results = self._known(seeds)
        if not len(results):
            return None
        judged = choose(points, results)
        if len(self.space.levels) == 1:
            return judged
        base = _lowest([c for c in self.candidates if self._is_baseline(c)], judged)
        among = _first(base.point, points) if base and base.point else points
        return choose(points, results, among)

    def _known(self, seeds: int) -> tuple[tuple[Point, ...], Results]:
        """What a choice is made from: the candidates, first what they are compared with (or one of
        the baseline's levels), and the results on the first ``seeds`` seeds.

        In stage 2 a further term equal to the first changes nothing: φ = (u^k1 + u^k1)/2. So the
        incumbent's results stand on the curve at k = k1, and at the last term in later stages,
        where that is nearly so.
        """
        k = self.earlier[-1] if self.earlier else BASELINE_KS[0]
        reference = Point(k, self.space.levels[0])
        earlier = self.incumbent.errors if self.incumbent else {}
        given = {c.point: c.errors for c in self.candidates if c.point is not None}
        results = Results.by_seed([(reference, earlier), *given.items()], seeds)
        return (reference, *(point for point in given if point != reference)), results

    def superfluous(self) -> Iterable[Trial]:
        for account in self.accounts.values():
            yield from account.superfluous

    def _token(self, candidate: Candidate, seed: int) -> Token:
        return Token(
            key=RunKey(self.number, candidate.index, seed),
            earlier_ks=self.earlier,
            k=candidate.k,
            bounds=self.space.bounds,
            protected=self._is_baseline(candidate),
            lr_max=candidate.lr_max,
            levels=self.space.searched_levels,
        )

    def _is_baseline(self, candidate: Candidate) -> bool:
        return self.number == 1 and candidate.k == BASELINE_KS[0]

    def _needs_trial(self, candidate: Candidate, seed: int) -> bool:
        if candidate.k is None and seed > 0:
            return False  # the sampler chooses for the first seed; the others follow it
        return seed in self._account(candidate.index).lacking

    def _account(self, index: int) -> Account:
        return self.accounts.get(index, self.untouched)

    def _candidate(self, index: int) -> Candidate:
        account = self._account(index)
        point, failed = self.space.points[index], account.failed
        if point is None:
            known = account.point
            point = known if known and known.lr_max in self.space.levels else None
            if point is None and failed:
                failed = self.spec.search.seeds  # its k never came to be: no seed can run
        return Candidate(
            index=index,
            k=point.k if point else None,
            errors=account.errors,
            pruned=account.pruned,
            skipped=account.skipped,
            failed=failed,
            unfinished=self.spec.search.seeds - account.complete - account.pruned - failed,
            lr_max=point.lr_max if point else self.space.lr_max,
        )

    def _best(self) -> Candidate | None:
        return _lowest(self.candidates, self.choice)

    def _with_probability(self, candidate: Candidate) -> Candidate:
        if self.choice is None or candidate.point is None:
            return candidate
        return replace(candidate, probability=self.choice.probability(candidate.point))

    def _smooth_gain(self, best: Candidate | None) -> Gain | None:
        if self.choice is None or best is None or best.point is None:
            return None
        return self.choice.gain(best.point)


def _lowest(candidates: Iterable[Candidate], choice: Choice | None) -> Candidate | None:
    """The lowest point of the smooth curve among candidates with ``RUNS_TO_WIN`` complete runs or
    more (one, where none has so many)."""
    tried = [(c, c.point) for c in candidates if c.errors and c.point is not None]
    runs = min(RUNS_TO_WIN, max((len(c.errors) for c, _ in tried), default=0))
    if choice is None:
        return None
    judged = [(choice.mean(point), point, c) for c, point in tried if len(c.errors) >= runs]
    return min(judged, key=lambda each: each[:2])[2] if judged else None


def _first(point: Point, points: Iterable[Point]) -> tuple[Point, ...]:
    """``points``, this one of them before the others."""
    return (point, *(other for other in points if other != point))
