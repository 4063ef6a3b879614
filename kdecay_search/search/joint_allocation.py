"""Which runs a joint search trains next: of candidates that were tried, and of new ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kdecay_search.search.allocation import (
    ROUNDING,
    Remaining,
    is_worth_going_on,
    joint_batch_size,
    worthiest,
)
from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.policy import Policy
from kdecay_search.search.selection import Selection
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import Subspace
from kdecay_search.study.trials import FIRST_SEED


@dataclass(frozen=True, eq=False)
class Tuning:
    """A baseline that has runs of its own."""

    subspace: Subspace
    """The baseline's levels and floors."""
    new: Sequence[Candidate]
    """Those that may be tried next."""
    begun: int
    """Number of its runs that have begun."""
    matched: Candidate | None = None
    """Its best with the values of the user's own parameters that the best of all candidates has;
    None without such parameters."""


@dataclass(frozen=True, eq=False)
class JointAllocator:
    """Chooses the next runs of a joint search."""

    surrogate: Surrogate
    """All candidates, new ones among them, by the results so far."""
    runs: Mapping[Candidate, int]
    """Number of complete runs of each candidate that may be chosen, 1 or more."""
    begun: Sequence[Candidate]
    """Candidates that have begun, and of which no run has ended yet: theirs are paused."""
    new: Sequence[Candidate]
    """Candidates that have not been tried."""
    tunings: Sequence[Tuning]
    """The baselines."""
    remaining: Remaining
    """What may still be run."""
    budget: int
    """Number of runs of the whole stage."""
    policy: Policy
    """The constants behind the rules."""

    def next_runs(self) -> list[Run]:
        """The runs to be queued next; none if the stage is over."""
        policy, left = self.policy, math.ceil(self.remaining.left - ROUNDING)
        size = min(left, joint_batch_size(self.budget, policy))
        is_matched = any(tuning.matched for tuning in self.tunings)
        is_last = left <= size + len(self.tunings) * (2 if is_matched else 1)
        chosen = (self._closing() if is_last else self.tuning_runs(size))[:left]
        tried = [*self.runs, *self.begun]
        chosen += self._worthiest(tried, self.new, min(size, left) - len(chosen), chosen)
        return self._affordable(chosen or self._closing())

    def tuning_runs(self, size: int) -> list[Run]:
        """The runs that the baselines are tuned with next: half of ``size`` at most, or one."""
        runs = [run for tuning in self.tunings for run in self._run_of_baseline(tuning)]
        return list(dict.fromkeys(runs[: max(1, size // 2)]))

    def _affordable(self, runs: Sequence[Run]) -> list[Run]:
        """The first of these runs, as far as what is left of the budget goes."""
        found: list[Run] = []
        for run in runs:
            if self.remaining.cost(*found, run) <= self.remaining.left + ROUNDING:
                found.append(run)
        return found

    def _closing(self) -> list[Run]:
        """What is missing before the stage may end: each baseline has run with the user's own
        parameters as the best has them, and the best, and each baseline's best, have run often
        enough to be chosen."""
        matched = [t.matched for t in self.tunings if t.matched in t.new and self._tried(t)]
        runs = [(point, FIRST_SEED) for point in matched if point is not None]
        groups = [list(self.runs), *(self._tried(tuning) for tuning in self.tunings)]
        runs += [run for group in groups if group for run in self._replicate(group)]
        runs += [run for tuning in self.tunings for run in self._first_end(tuning)]
        return list(dict.fromkeys(runs))

    def goes_on(self, run: Run, others: Sequence[Run]) -> bool:
        """Whether a run that has come to a look should train on; the runs that a baseline is tuned
        with do.

        Args:
            run: The run, paused.
            others: The runs that are under way.
        """
        if any(t.subspace.holds(run[0]) and self._ended(t) < self._due(t) for t in self.tunings):
            return True
        posterior = self._posterior([*self.runs, *self.begun], self.new, [run, *others])
        return is_worth_going_on(posterior, self.remaining, run, others)

    def _first_end(self, tuning: Tuning) -> list[Run]:
        """The run that gives a baseline its first result, if it is paused."""
        paused = [point for point in self.begun if tuning.subspace.holds(point)]
        if self._tried(tuning) or not paused:
            return []
        best = self._lowest(paused)
        return [min(run for run in self.remaining.rest if run[0] == best)]

    def _tried(self, tuning: Tuning) -> list[Candidate]:
        return [point for point in self.runs if tuning.subspace.holds(point)]

    def _ended(self, tuning: Tuning) -> int:
        """Number of a baseline's complete runs."""
        return sum(self.runs[point] for point in self._tried(tuning))

    def _due(self, tuning: Tuning) -> int:
        """Number of runs that a baseline is tuned with."""
        fewest, most = self.policy.baseline_runs
        share = self.policy.baseline_share * self.budget / len(self.tunings)
        return max(fewest, min(most, round(share)))

    def _run_of_baseline(self, tuning: Tuning) -> list[Run]:
        """The next of the runs that a baseline is tuned with, if it is due one."""
        if tuning.begun >= self._due(tuning):
            return []
        tried = self._tried(tuning)
        if first := self._first_end(tuning):
            return first
        if not tried:
            return [(self._lowest(tuning.new), FIRST_SEED)] if tuning.new else []
        return self._worthiest(tried, tuning.new, 1, ())[:1] or self._replicate(tried)

    def _replicate(self, among: Iterable[Candidate]) -> list[Run]:
        """A further run of the best of some candidates, if it has too few to be chosen."""
        best = self._lowest(among)
        seeds = sorted(self.remaining.missing.get(best, ()))
        return [(best, seeds[0])] if self.runs[best] < self.policy.min_runs_to_win and seeds else []

    def _worthiest(
        self,
        tried: Iterable[Candidate],
        new: Iterable[Candidate],
        size: int,
        certain: Sequence[Run],
    ) -> list[Run]:
        """The runs that are worth most, of the likeliest candidates that were tried and of the
        likeliest new ones."""
        return worthiest(self._posterior(tried, new, certain), self.remaining, size, certain)

    def _posterior(
        self, tried: Iterable[Candidate], new: Iterable[Candidate], certain: Sequence[Run]
    ) -> Posterior:
        """The likeliest of the candidates that were tried and of the new ones."""
        half = self.policy.max_considered // 2
        considered = [*self._likeliest(tried)[:half], *self._likeliest(new)[:half]]
        points = dict.fromkeys([*considered, *(point for point, _ in certain)])
        if self.runs and not any(point in self.runs for point in points):
            points[self._lowest(self.runs)] = None
        untried = [point for point in points if point not in self.runs]
        return Posterior.of(self.surrogate, points, self.policy, untried)

    def _likeliest(self, points: Iterable[Candidate]) -> list[Candidate]:
        """Candidates by their probability to be the best."""
        return sorted(
            points, key=lambda point: (-self._probabilities[point], self._means[point], point)
        )

    def _lowest(self, points: Iterable[Candidate]) -> Candidate:
        return min(points, key=lambda point: (self._means[point], point))

    @cached_property
    def _selection(self) -> Selection:
        return Selection.of(self.surrogate)

    @cached_property
    def _probabilities(self) -> dict[Candidate, float]:
        return dict(zip(self._selection.points, self._selection.probabilities, strict=True))

    @cached_property
    def _means(self) -> dict[Candidate, float]:
        return dict(zip(self._selection.points, self._selection.means, strict=True))
