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

from kdecay_search.search.forecast import noise_share
from kdecay_search.search.knowledge_gradient import Measurement, Posterior, Run
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Group, Look, Point
from kdecay_search.search.selection import Selection
from kdecay_search.search.stage import CandidateResult
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate

_ROUNDING = 1e-9
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
    first_look: tuple[int, float] | None = None
    """Number of the report at which a run is first looked at, and the share of the training that is
    done by then; None if runs are not looked at."""

    def cost(self, run: Run) -> float:
        """What it takes to bring a run to its end, in trainings of full length."""
        return self.rest.get(run, 1.0)


@dataclass(frozen=True)
class Option:
    """Something that may be trained next."""

    runs: tuple[Run, ...]
    """The runs that begin or go on."""
    told: tuple[Measurement, ...]
    """What becomes known: the runs' ends, or their first looks."""
    cost: float
    """What that takes, in trainings of full length."""


def batch_size(candidates: int, policy: Policy = POLICY) -> int:
    """How many runs of a stage with so many candidates are chosen together."""
    wanted = candidates // policy.candidates_per_batched_run
    return max(policy.min_batch, min(policy.max_batch, wanted))


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
    looked: Mapping[Group, frozenset[Point]] = field(default_factory=dict)
    """What runs have shown at looks, by seed and number of the report."""
    policy: Policy = POLICY
    """The constants behind the rules."""

    def next_runs(self, size: int) -> list[Run]:
        """The runs to be queued next, about ``size`` of them; none if the allocation is over."""
        due, leader = self._runs_of_baseline(), self._run_of_leader()
        are_last = self.remaining.left - sum(map(self.remaining.cost, due)) <= size
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
        if run in self._runs_of_baseline() or run in self._run_of_leader():
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
        every: dict[Point, None] = dict.fromkeys(points)
        share = None
        if self.remaining.first_look is not None and self.looked:
            number, share = self.remaining.first_look
            known = set(self.surrogate.looks)
            looks = [Look(point, number) for point in every if isinstance(point, Candidate)]
            every |= dict.fromkeys(look for look in looks if look in known)
        noise = 1.0 if share is None else noise_share(share, self.policy)
        return Posterior.of(
            self.surrogate, every, self.policy, looked=self.looked, look_noise=noise
        )

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

    def _run_of_leader(self) -> list[Run]:
        """A run that is missing before the stage may end: the leader has met its reference on two
        seeds; and if the reference leads, some other candidate has run on two."""
        challenger, needed = self._challenger(), self.policy.min_runs_to_win
        if challenger is None or self.remaining.left_for_leader <= 0:
            return []
        selection = self.selection
        leads = selection.mean(challenger) < selection.mean(selection.points[0])
        errors = self.candidates[challenger].errors
        met = errors.keys() & self.reference.keys() if leads else errors.keys()
        wanted = min(needed, len(self.reference)) if leads else needed
        others = (c for point, c in self.candidates.items() if point not in self.baselines)
        is_settled = not leads and any(len(c.errors) >= needed for c in others)
        if is_settled or (len(met) >= wanted and len(errors) >= needed):
            return []
        missing = self.remaining.missing.get(challenger, ())
        cost = self.remaining.cost
        seeds = sorted(missing, key=lambda s: (s not in self.reference, cost((challenger, s)), s))
        return [(challenger, seed) for seed in seeds[:1]]


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
    told: list[Measurement] = list(certain)
    left = remaining.left - sum(map(remaining.cost, certain))
    least = posterior.policy.min_worth * math.sqrt(posterior.noise)
    worth = posterior.knowledge_gradient(told)
    while len(chosen) < size:
        totals = {
            option: posterior.knowledge_gradient([*told, *option.told])
            for option in options(posterior, remaining, told)
            if sum(map(remaining.cost, option.runs)) <= left + _ROUNDING
        }
        gains = {option: (total - worth) / option.cost for option, total in totals.items()}
        best = max(gains, key=gains.__getitem__, default=None)
        if best is None or gains[best] < least:
            break
        chosen += best.runs
        told += best.told
        left -= sum(map(remaining.cost, best.runs))
        worth = totals[best]
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
    least = posterior.policy.min_worth * math.sqrt(posterior.noise)

    def gain(told: Sequence[Measurement], cost: float) -> float:
        return (posterior.knowledge_gradient([*others, *told]) - worth) / cost

    own = gain([run], remaining.cost(run))
    if own < least:
        return False
    every = options(posterior, remaining, list(others))
    return all(own >= posterior.policy.clear * gain(each.told, each.cost) for each in every)


def options(
    posterior: Posterior, remaining: Remaining, begun: Sequence[Measurement]
) -> Iterable[Option]:
    """What may be trained next: a candidate's run on a seed that others have run on, to its end or,
    if it is new, to its first look; or, since a run alone on its seed tells nothing, the leader and
    another candidate together on a fresh one.

    Args:
        posterior: The candidates that are considered.
        remaining: What may still be run.
        begun: What is under way or chosen already.
    """
    there = {seed: posterior.ran.get(seed, frozenset()) for seed in range(remaining.seeds)}
    for point, group in begun:
        seed = group[0] if isinstance(group, tuple) else group
        there[seed] = there[seed] | {point.point if isinstance(point, Look) else point}
    missing = {
        point: [s for s in sorted(remaining.missing[point]) if point not in there[s]]
        for point in posterior.points
        if isinstance(point, Candidate) and point in remaining.missing
    }
    for point, seeds in missing.items():
        kinds: dict[tuple[frozenset[Point], float], int] = {}
        for seed in seeds:
            kinds.setdefault((there[seed], remaining.cost((point, seed))), seed)
        known = sorted(
            (kind for kind in kinds if kind[0]), key=lambda kind: (-len(kind[0]), kinds[kind])
        )
        for kind in known[: posterior.policy.max_seed_kinds]:
            yield from _ways(posterior, remaining, ((point, kinds[kind]),))
    free = [seed for seed, points in there.items() if not points]
    begins = {seed for seed in free if any((p, seed) in remaining.rest for p in missing)}
    fresh = next((seed for seed in free if seed not in begins), None)
    for seed in (*sorted(begins), *(() if fresh is None else (fresh,))):
        able = [point for point, seeds in missing.items() if seed in seeds]
        if able:
            leader = min(able, key=lambda point: (posterior.mean(point), point))
            for other in able:
                if other != leader:
                    yield from _ways(posterior, remaining, ((leader, seed), (other, seed)))


def _ways(posterior: Posterior, remaining: Remaining, runs: tuple[Run, ...]) -> Iterable[Option]:
    """Some runs to their end and, if all are new, to their first look."""
    yield Option(runs, runs, sum(map(remaining.cost, runs)))
    if remaining.first_look is None or any(run in remaining.rest for run in runs):
        return
    number, share = remaining.first_look
    looks = tuple((Look(point, number), (seed, number)) for point, seed in runs)
    if all(look in posterior.points for look, _ in looks):
        yield Option(runs, looks, share * len(runs))
