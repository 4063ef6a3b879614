"""The iterative search for the terms of eq. 14: a pure function from records to a plan.

Stage 1 compares single exponents with the original, k = 1. Stage n keeps the terms found so far
and compares a further one, k_n > k_(n-1), with the schedule that stage n-1 ended with (the
incumbent), whose results are reused. While the best candidate of a grid is its largest, the grid
grows, up to ``k_cap``. A stage's best candidate is kept if it lowers the mean error over the
seeds, paired by seed, by more than ``min_gain``; otherwise the search ends with the incumbent.

The best candidate is not the smallest noisy mean but the minimum of a smooth curve through all
results (:mod:`kdecay_search.choice`). With pruning, seeds are a race: every candidate runs on the
first, and each further seed is given to those few that may still be the best; the runs of the
others are closed without being trained (:attr:`Plan.skip`). The baseline runs on the second seed,
too, and on further ones while it is open whether the best candidate is better than it.

A study that asks for it ends with a confirmation on fresh seeds
(:mod:`kdecay_search.confirmation`).

Nothing here reads a clock, a file or a database: :func:`make_plan` says what the storage should
hold, and :mod:`kdecay_search.driver` brings it about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kdecay_search import race
from kdecay_search.accounts import Account, account_of
from kdecay_search.choice import Choice, Gain, Results, choose
from kdecay_search.confirmation import Confirmation, confirm
from kdecay_search.runs import CandidateKey, Replicates, RunKey, Token, Trial, Trials
from kdecay_search.spec import SearchSpec, StudySpec, grid
from kdecay_search.statistics import Sample, describe, paired_gain

BASELINE_KS = (1.0,)
"""The original schedule, which every study is measured against."""
GROWTH = 0.5
"""A grid whose best candidate is its largest grows by this share of its width …"""
MIN_GROWTH_STEPS = 2
"""… but by so many steps at least."""
FIRST_SEED = 0


class Progress(StrEnum):
    """Where a stage or a study stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Candidate:
    """One value of k within a stage, and what its runs gave."""

    index: int
    k: float | None
    errors: Mapping[int, float]
    """Final validation error (%) of complete runs, by seed."""
    pruned: int
    """Runs that ended early, those included that lost the race before they began …"""
    skipped: int
    """… which are these."""
    failed: int
    unfinished: int
    """Runs that are waiting, running or still to be queued."""
    probability: float | None = None
    """To be the best of the stage, by the results so far; None before there are any."""

    @property
    def error(self) -> Sample:
        return describe(self.errors.values())


@dataclass(frozen=True)
class Incumbent:
    """The best schedule so far: its terms and its errors (%) by seed."""

    ks: tuple[float, ...]
    errors: Mapping[int, float]


@dataclass(frozen=True)
class Stage:
    """The search for one term."""

    n: int
    earlier_ks: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    progress: Progress
    best: Candidate | None
    """The best candidate so far."""
    gain: Sample
    """By how much the best candidate improves on the incumbent, paired by seed."""
    leads: bool
    """Whether the best candidate improves on the incumbent by more than ``min_gain`` so far."""
    kept: bool
    """Whether it does at the stage's end."""
    at_edge: bool
    """Whether the best candidate is the largest that the search space allows."""
    smooth_gain: Gain | None
    """The same by the smooth curve through all results, not only those of the pairs."""


@dataclass(frozen=True)
class Plan:
    """What the records amount to, and what the storage should be made to hold."""

    stages: tuple[Stage, ...]
    incumbent: Incumbent
    baseline: Incumbent
    progress: Progress
    enqueue: tuple[Token, ...]
    """Runs to be queued, in the order in which workers should take them."""
    skip: tuple[Token, ...]
    """Runs that lost the race before they began: to be recorded as pruned, untrained."""
    withdraw: tuple[Trial, ...]
    """Waiting and running trials of runs that another trial serves."""
    confirmation: Confirmation | None = None
    """Once the search is done, if the study has one."""

    @property
    def leader(self) -> Incumbent:
        """The best schedule so far: the incumbent or, while a stage runs, the candidate that
        would be kept if the stage ended now."""
        last = self.stages[-1] if self.stages else None
        if last is None or not last.leads or last.best is None or last.best.k is None:
            return self.incumbent
        return Incumbent((*last.earlier_ks, last.best.k), last.best.errors)


def make_plan(spec: StudySpec, trials: Iterable[Trial]) -> Plan:
    """What to do next, given everything that the storage holds of the study.

    Of :class:`Trials`, only candidates that have changed since an earlier plan are looked at trial
    by trial.
    """
    known = trials if isinstance(trials, Trials) else Trials.of(trials)
    by_stage: dict[tuple[int, tuple[float, ...]], dict[int, Replicates]] = defaultdict(dict)
    for (of_stage, earlier_ks, candidate), replicates in known.groups.items():
        by_stage[of_stage, earlier_ks][candidate] = replicates
    baseline = incumbent = Incumbent(BASELINE_KS, {})
    stages: list[Stage] = []
    earlier: tuple[float, ...] = ()
    upper = spec.search.k_max
    books: list[_Book] = []
    while len(earlier) < spec.search.max_terms:
        number = len(stages) + 1
        space = _Space.of_stage(spec.search, number, earlier, upper)
        if space is None:
            break
        book = _Book(spec, incumbent if number > 1 else None, space, by_stage[number, earlier])
        if number == 1:
            incumbent = baseline = Incumbent(BASELINE_KS, book.errors_of(BASELINE_KS[0]))
        books.append(book)
        stage = book.stage(incumbent)
        stages.append(stage)
        best = stage.best
        if not stage.kept or best is None or best.k is None:
            break
        earlier = (*earlier, best.k)
        upper = book.space.bounds[1]
        incumbent = Incumbent(earlier, best.errors)
    enqueue, skip = books[-1].missing()
    plan = Plan(
        stages=tuple(stages),
        incumbent=incumbent,
        baseline=baseline,
        progress=stages[-1].progress,
        enqueue=enqueue,
        skip=skip,
        withdraw=tuple(trial for book in books for trial in book.superfluous()),
    )
    is_searching = plan.progress != Progress.DONE or not spec.confirm.seeds
    return plan if is_searching else _with_confirmation(plan, spec, known.groups)


def _with_confirmation(
    plan: Plan, spec: StudySpec, known: Mapping[CandidateKey, Replicates]
) -> Plan:
    """The plan of a study whose search is done."""
    last = confirm(spec, plan.incumbent.ks, known)
    if not last.is_over:
        progress = Progress.RUNNING
    else:
        progress = Progress.DONE if last.comparison.n or not last.rows else Progress.FAILED
    return replace(
        plan,
        progress=progress,
        enqueue=last.enqueue,
        withdraw=(*plan.withdraw, *last.superfluous),
        confirmation=last,
    )


def runs_at_most(spec: StudySpec) -> list[tuple[int, int]]:
    """(candidates, runs) that each stage can need at most, without failures: for planning."""
    counts = []
    search = spec.search
    earlier: tuple[float, ...] = ()
    for number in range(1, search.max_terms + 1):
        space = _Space.of_stage(search, number, earlier, search.k_max)
        if space is None:
            break
        while (larger := space.grown()) is not None:
            space = larger
        counts.append((len(space.ks), len(space.ks) * search.seeds))
        earlier = (*earlier, space.bounds[0])
    return counts


@dataclass(frozen=True)
class _Space:
    """The candidates of a stage. A grown space begins with the candidates that it grew from, so
    that a candidate's number keeps its meaning."""

    search: SearchSpec
    ks: tuple[float | None, ...]
    """None where the sampler chooses."""
    bounds: tuple[float, float]

    @staticmethod
    def of_stage(
        search: SearchSpec, number: int, earlier: tuple[float, ...], upper: float
    ) -> _Space | None:
        """The space that stage ``number`` starts with; None if no larger term is left to try."""
        lower = search.k_min if number == 1 else round(earlier[-1] + search.k_step, 10)
        if number > 1 and lower > search.cap:
            return None
        if search.sampler != "grid":
            return _Space._of_sampler(search, number, lower, upper)
        points = grid(lower, max(upper, lower), search.k_step)
        if number == 1 and search.ks is not None:
            points = search.ks
        ks = spread(points)
        if number == 1:
            ks = (BASELINE_KS[0], *(k for k in ks if k != BASELINE_KS[0]))
        return _Space(search, ks, (points[0], points[-1]))

    @staticmethod
    def _of_sampler(search: SearchSpec, number: int, lower: float, upper: float) -> _Space:
        """The baseline is one of stage 1's trials, and so within its bounds."""
        if number > 1:
            upper = upper if upper > lower else search.cap
            return _Space(search, (None,) * search.trials, (lower, upper))
        base = BASELINE_KS[0]
        chosen = (None,) * (search.trials - 1)
        return _Space(search, (base, *chosen), (min(lower, base), max(upper, base)))

    def grown(self) -> _Space | None:
        """This space with larger candidates added; None at the cap, and for samplers."""
        search, (lower, upper) = self.search, self.bounds
        if search.sampler != "grid" or upper + search.k_step > search.cap + 1e-9:
            return None
        steps = max(MIN_GROWTH_STEPS, round(GROWTH * (upper - lower) / search.k_step))
        new_upper = min(round(upper + steps * search.k_step, 10), search.cap)
        longer = grid(lower, new_upper, search.k_step)
        added = spread(k for k in longer if k > upper and k not in self.ks)
        return _Space(search, (*self.ks, *added), (lower, longer[-1]))

    def is_upper_edge(self, k: float) -> bool:
        if self.search.sampler == "grid":
            return k == self.bounds[1]
        return k > self.bounds[1] - self.search.k_step


class _Book:
    """The trials of one stage, sorted into its candidates and runs."""

    def __init__(
        self,
        spec: StudySpec,
        incumbent: Incumbent | None,
        space: _Space,
        replicates: Mapping[int, Replicates],
    ) -> None:
        """``incumbent``: what the stage before ended with; None in stage 1. ``replicates``: the
        trials of each candidate that has some."""
        self.spec = spec
        self.earlier = incumbent.ks if incumbent else ()
        self.number = len(self.earlier) + 1
        self.given = incumbent.errors if incumbent else {}
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
            self.candidates = tuple(self._candidate(i) for i in range(len(self.space.ks)))
            self.choice = self._judge(self.spec.search.seeds)
            best = self._best()
            if best is None or best.k is None or any(c.unfinished for c in self.candidates):
                return
            larger = self.space.grown() if self.space.is_upper_edge(best.k) else None
            if larger is None:
                return
            self.space = larger

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
        )

    def errors_of(self, k: float) -> Mapping[int, float]:
        return next((c.errors for c in self.candidates if c.k == k), {})

    def missing(self) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
        """Runs that no open or finished trial serves: those to queue, and those to skip."""
        races = self.spec.pruning.enabled
        enqueue: list[Token] = []
        skip: list[Token] = []
        for seed in self._unended():
            lacking = [c for c in self.candidates if self._needs_trial(c, seed)]
            runners = self._runners(seed) if races and seed and lacking else self.candidates
            racing = {candidate.index for candidate in runners}
            for candidate in lacking:
                queue = enqueue if candidate.index in racing else skip
                queue.append(self._token(candidate, seed))
            if races and not self._is_over(seed):
                enqueue += self._certain(seed + 1)
                break
        return tuple(enqueue), tuple(skip)

    def _certain(self, seed: int) -> list[Token]:
        """Runs of a further seed that will be needed however the one before ends."""
        if not seed == race.SECOND_SEED < self.spec.search.seeds:
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
        """Who gets a further seed (:mod:`kdecay_search.race`), of those that ran to the end on the
        first: whoever lost the race on one seed may come back on a later one."""
        judged = self._judge(seed)
        if judged is None:
            return [c for c in self.candidates if self._is_baseline(c)]
        survivors = {
            c.k: c
            for c in self.candidates
            if FIRST_SEED in c.errors and c.k is not None and not self._is_baseline(c)
        }
        runners = race.winners(judged, survivors, seed)
        base = race.needs_baseline(judged, runners, seed)
        rest = [c for c in self.candidates if base and self._is_baseline(c)]
        return rest + [survivors[k] for k in runners]

    def _judge(self, seeds: int) -> Choice | None:
        """The candidates, and first what they are compared with, by the first ``seeds`` seeds.

        In stage 2 a further term equal to the first changes nothing: φ = (u^k1 + u^k1)/2. So the
        incumbent's results stand on the curve at k = k1, and at the last term in later stages,
        where that is nearly so.
        """
        reference = self.earlier[-1] if self.earlier else BASELINE_KS[0]
        given = {c.k: c.errors for c in self.candidates if c.k is not None}
        results = Results.by_seed([(reference, self.given), *given.items()], seeds)
        ks = (reference, *(k for k in given if k != reference))
        return choose(ks, results) if len(results) else None

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
        k, failed = self.space.ks[index], account.failed
        if k is None:
            k = account.k
            if k is None and failed:
                failed = self.spec.search.seeds  # its k never came to be: no seed can run
        return Candidate(
            index=index,
            k=k,
            errors=account.errors,
            pruned=account.pruned,
            skipped=account.skipped,
            failed=failed,
            unfinished=self.spec.search.seeds - account.complete - account.pruned - failed,
        )

    def _best(self) -> Candidate | None:
        """The lowest point of the smooth curve among candidates with two complete runs or more
        (one, where none has two)."""
        runs = max((len(c.errors) for c in self.candidates), default=0)
        tried = [c for c in self.candidates if c.errors and len(c.errors) >= min(2, runs)]
        choice = self.choice
        if choice is None:
            return None
        return min(tried, key=lambda c: (choice.mean(c.k or 0.0), c.k or 0.0), default=None)

    def _with_probability(self, candidate: Candidate) -> Candidate:
        if self.choice is None or candidate.k is None:
            return candidate
        return replace(candidate, probability=self.choice.probability(candidate.k))

    def _smooth_gain(self, best: Candidate | None) -> Gain | None:
        if self.choice is None or best is None or best.k is None:
            return None
        return self.choice.gain(best.k)


def spread(values: Iterable[float]) -> tuple[float, ...]:
    """``values`` reordered so that any beginning of them covers the whole range: both ends, then
    the middle, then the middles of what is left (breadth first)."""
    ordered = sorted(values)
    if len(ordered) <= 2:  # noqa: PLR2004
        return tuple(ordered)
    result = [ordered[0], ordered[-1]]
    gaps = [(0, len(ordered) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            result.append(ordered[middle])
            gaps += [(low, middle), (middle, high)]
    return tuple(result)
