"""The book of a stage: its trials by candidate and run, and what is to be done about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from kdecay_search import race
from kdecay_search.accounts import Account, account_of
from kdecay_search.choice import Choice, Gain, Results, choose
from kdecay_search.controls import BASELINE_KS
from kdecay_search.procedure.space import Space
from kdecay_search.procedure.stage import Candidate, Incumbent, Progress, Stage
from kdecay_search.runs import Replicates, RunKey, Token, Trial
from kdecay_search.spec import StudySpec
from kdecay_search.statistics import paired_gain

FIRST_SEED = 0


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
