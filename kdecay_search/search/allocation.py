"""Which runs a stage trains next, decided from the results so far alone.

With pruning, not every candidate runs on every seed. A few runs are chosen at a time, those that
are worth the most, whichever candidate's and on whichever seed: a candidate that the first seed
left out may still run on it. The allocation ends when no run is worth it any more, or when its
share of the grid has been trained. docs/pruning.md has the measurements behind the rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.selection import Selection
from kdecay_search.search.stage import CandidateResult
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate

ROUNDING = 1e-9
"""Trainings by which a sum of shares may be off."""


@dataclass(frozen=True)
class Remaining:
    """What may still be run."""

    missing: Mapping[Candidate, Collection[int]]
    """Seeds on which a candidate has not run."""
    seeds: int
    """Number of seeds of the study."""
    left: float
    """Trainings of full length that are left; negative if more have begun."""
    left_for_leader: float
    """The same for runs that make sure of the leader; ``left`` or more."""
    rest: Mapping[Run, float] = field(default_factory=dict)
    """What is left of the training of each paused run, as a share of it."""

    def cost(self, *runs: Run) -> float:
        """What it takes to bring some runs to their ends, in trainings of full length."""
        return sum(self.rest.get(run, 1.0) for run in runs)


def batch_size(candidates: int, policy: Policy = POLICY) -> int:
    """How many runs of a stage with so many candidates are chosen together."""
    return _bounded(candidates // policy.candidates_per_batched_run, policy)


def joint_batch_size(budget: int, policy: Policy = POLICY) -> int:
    """How many runs of a joint search with this budget are chosen together."""
    return _bounded(budget // policy.runs_per_decision, policy)


def _bounded(size: int, policy: Policy) -> int:
    return max(policy.min_batch, min(policy.max_batch, size))


def max_runs(candidates: int, seeds: int, extra_runs: int, policy: Policy = POLICY) -> int:
    """The largest number of runs that a stage trains, all in all, when pruning is on.

    Args:
        candidates: Number of candidates of the stage.
        seeds: Number of seeds of the study.
        extra_runs: Extra runs allowed beyond one per candidate.
        policy: Its share of the grid is used.
    """
    return max(int(policy.grid_share * candidates * seeds), candidates + extra_runs)


@dataclass(frozen=True)
class RunAllocator:
    """Chooses the next runs of a stage among the candidates that may still win."""

    surrogate: Surrogate
    """All candidates, by the results so far."""
    selection: Selection
    """What the surrogate says of each candidate; its first point is the reference."""
    candidates: Mapping[Candidate, CandidateResult]
    """The candidates that may still be chosen."""
    baselines: frozenset[Candidate]
    """Those of ``candidates`` with k = 1 in stage 1: one for each learning-rate level."""
    reference: Mapping[int, float]
    """Errors of the reference, by seed."""
    remaining: Remaining
    """What may still be run."""
    pairs: int
    """Number of seeds that the leader is to meet its reference on, for the verdict."""
    policy: Policy = POLICY
    """The constants behind the rules."""

    def next_runs(self, size: int) -> list[Run]:
        """The runs to be queued next, about ``size`` of them; none if the allocation is over."""
        due, leader = self._runs_of_baseline(), self._runs_for_verdict()
        are_last = self.remaining.left - self.remaining.cost(*due) <= size
        chosen = [run for run in leader if run not in due] if are_last else []
        certain = [*due, *chosen]
        points = [self.selection.points[0], *self._considered(), *(p for p, _ in certain)]
        posterior = self._posterior(points)
        chosen += worthiest(posterior, self.remaining, size - len(chosen), certain)
        runs = [*due, *chosen, *self._runs_of_levels(size, due, len(chosen))]
        return list(dict.fromkeys(runs)) or leader

    def goes_on(self, run: Run, others: Sequence[Run]) -> bool:
        """Whether a run that has come to a look should train on.

        Args:
            run: The run, paused.
            others: The runs that are under way.
        """
        if run in self._runs_of_baseline() or run in self._runs_for_verdict():
            return True
        points = [self.selection.points[0], *self._considered(), *(p for p, _ in (run, *others))]
        return is_worth_going_on(self._posterior(points), self.remaining, run, others)

    def _considered(self) -> list[Candidate]:
        """The candidates whose further runs are considered: the likeliest to be the best."""
        ranked = sorted(
            self.candidates, key=lambda point: (-self.selection.probability(point), point)
        )
        return ranked[: self.policy.max_considered]

    def _posterior(self, points: Iterable[Candidate]) -> Posterior:
        return Posterior.of(self.surrogate, dict.fromkeys(points), self.policy)

    def _challenger(self) -> Candidate | None:
        """The best candidate that is no baseline."""
        others = self.candidates.keys() - self.baselines
        return min(others, key=lambda point: (self.selection.mean(point), point), default=None)

    def _runs_of_baseline(self) -> list[Run]:
        """The baseline, at its best level, runs twice, however clear the difference is."""
        reference = self.selection.points[0]
        if reference not in self.baselines:
            return []
        seeds = sorted(self.remaining.missing.get(reference, ()))
        wanted = max(0, self.policy.min_runs_to_win - len(self.reference))
        return [(reference, seed) for seed in seeds[:wanted]]

    def _runs_of_levels(self, size: int, due: Sequence[Run], others: int) -> list[Run]:
        """The baseline's levels are allocated runs by the same rules, among themselves, while it is
        open whether another candidate is better. ``others``: runs that are begun elsewhere."""
        challenger = self._challenger()
        is_open = challenger is not None and not self.selection.gain(challenger).is_sure
        if len(self.baselines) <= 1 or not is_open:
            return []
        remaining = replace(self.remaining, left=self.remaining.left - others)
        posterior = self._posterior(sorted(self.baselines))
        return worthiest(posterior, remaining, size, due)

    def _runs_for_verdict(self) -> list[Run]:
        """What is missing before the stage may end: the leader has met its reference on ``pairs``
        seeds; and if the reference leads, some other candidate has run on two."""
        challenger, needed = self._challenger(), self.policy.min_runs_to_win
        if challenger is None or self.remaining.left_for_leader <= 0:
            return []
        reference = self.selection.points[0]
        if self.selection.mean(challenger) < self.selection.mean(reference):
            return self._next_pair(challenger, reference)
        others = (c for point, c in self.candidates.items() if point not in self.baselines)
        if any(len(c.errors) >= needed for c in others):
            return []
        missing = self.remaining.missing.get(challenger, ())
        runs = [(challenger, seed) for seed in missing]
        return sorted(runs, key=lambda run: (self.remaining.cost(run), run[1]))[:1]

    def _next_pair(self, challenger: Candidate, reference: Candidate) -> list[Run]:
        """The runs with which these two meet on a further seed: the cheapest; none if they have met
        often enough."""
        known = {challenger: self.candidates[challenger].errors, reference: self.reference}
        if len(known[challenger].keys() & self.reference.keys()) >= self.pairs:
            return []
        found = []
        for seed in range(self.remaining.seeds):
            runs = [(point, seed) for point, errors in known.items() if seed not in errors]
            if runs and all(s in self.remaining.missing.get(point, ()) for point, s in runs):
                found.append(runs)
        return min(found, key=lambda runs: (self.remaining.cost(*runs), runs[0][1]), default=[])


def worthiest(
    posterior: Posterior, remaining: Remaining, size: int, certain: Sequence[Run] = ()
) -> list[Run]:
    """The runs with the largest knowledge gradient for each epoch, added one after another.

    Args:
        posterior: The candidates that are considered; its policy's constants are used.
        remaining: What may still be run.
        size: Number of runs; a pair on a seed of its own may make it one more.
        certain: Runs that begin in any case.

    Returns:
        The runs, the worthiest first; none if no further run is worth ``min_worth``.
    """
    chosen: list[Run] = []
    least = posterior.policy.min_worth * math.sqrt(posterior.noise)
    worth = posterior.knowledge_gradient(certain)
    while len(chosen) < size:
        begun = [*certain, *chosen]
        left = remaining.left - remaining.cost(*begun)
        worths = {
            runs: posterior.knowledge_gradient([*begun, *runs])
            for runs in possible_runs(posterior, remaining, begun)
            if remaining.cost(*runs) <= left + ROUNDING
        }
        gains = {runs: (total - worth) / remaining.cost(*runs) for runs, total in worths.items()}
        best = max(gains, key=gains.__getitem__, default=())
        if not best or gains[best] < least:
            break
        chosen += best
        worth = worths[best]
    return chosen


def is_worth_going_on(
    posterior: Posterior, remaining: Remaining, run: Run, others: Sequence[Run]
) -> bool:
    """Whether a run that has come to a look is worth its rest, and not clearly less than what else
    might be trained, for each epoch.

    Args:
        posterior: The candidates that are considered; its policy's constants are used.
        remaining: What may still be run, this run paused.
        run: The run.
        others: The runs that are under way.
    """
    worth = posterior.knowledge_gradient(others)

    def gain(*runs: Run) -> float:
        return (posterior.knowledge_gradient([*others, *runs]) - worth) / remaining.cost(*runs)

    own = gain(run)
    if own < posterior.policy.min_worth * math.sqrt(posterior.noise):
        return False
    every = possible_runs(posterior, remaining, others) if posterior.policy.clear else ()
    return all(own >= posterior.policy.clear * gain(*runs) for runs in every)


def possible_runs(
    posterior: Posterior, remaining: Remaining, begun: Sequence[Run]
) -> Iterable[tuple[Run, ...]]:
    """What may be trained next: a candidate on a seed that others have run on, or, since a run
    alone on its seed tells nothing, the leader and another candidate together on a fresh one and on
    those where only paused runs are.

    Args:
        posterior: The candidates that are considered.
        remaining: What may still be run.
        begun: Runs that are under way or chosen already.
    """
    there = {seed: posterior.ran.get(seed, frozenset()) for seed in range(remaining.seeds)}
    for point, seed in begun:
        there[seed] = there[seed] | {point}
    missing = {
        point: [s for s in sorted(remaining.missing[point]) if point not in there[s]]
        for point in posterior.points
        if point in remaining.missing
    }
    for point, seeds in missing.items():
        kinds: dict[tuple[frozenset[Candidate], float], int] = {}
        for seed in seeds:
            if there[seed]:
                kinds.setdefault((there[seed], remaining.cost((point, seed))), seed)
        known = sorted(kinds, key=lambda kind: (-len(kind[0]), kinds[kind]))
        for kind in known[: posterior.policy.max_seed_kinds]:
            yield ((point, kinds[kind]),)
    free = [seed for seed, points in there.items() if not points]
    paused = {seed for _, seed in remaining.rest}
    fresh = next((seed for seed in free if seed not in paused), None)
    for seed in free:
        able = [point for point, seeds in missing.items() if seed in seeds]
        if able and (seed == fresh or seed in paused):
            leader = posterior.lowest(able)
            yield from (((leader, seed), (other, seed)) for other in able if other != leader)
