"""The candidates of a stage, and how they become more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.search_spec import SearchSpec, grid

Ordered = TypeVar("Ordered", float, Candidate)


@dataclass(frozen=True)
class Space:
    """The candidates of a stage. A grown space begins with the candidates that it grew from, so
    that a candidate's number keeps its meaning."""

    search: SearchSpec
    """The study file's search table."""
    points: tuple[Candidate | None, ...]
    """The candidates by index; None if the sampler chooses it."""
    bounds: tuple[float, float]
    """Smallest and largest k."""
    levels: tuple[float | None, ...] = (None,)
    """Values of lr_max at which each k is tried: in stage 1 those of the file, later the one that
    was found; None if lr_max is not searched."""
    later: frozenset[int] = frozenset()
    """Indices of the candidates that do not begin on the first seed: with pruning, their neighbours
    stand for them there."""

    @staticmethod
    def of_stage(
        search: SearchSpec,
        number: int,
        earlier: tuple[float, ...],
        upper: float,
        lr_max: float | None = None,
        policy: Policy = POLICY,
    ) -> Space | None:
        """The space that a stage starts with.

        Args:
            search: The study file's search table.
            number: The stage, from 1.
            earlier: The terms that earlier stages kept.
            upper: The largest k.
            lr_max: In a later stage, the learning-rate level that stage 1 found.
            policy: Its share of candidates that begin is used.

        Returns:
            The space; None if no larger term is left to try.
        """
        lower = search.k_min if number == 1 else round(earlier[-1] + search.k_step, 10)
        if number > 1 and lower > search.cap:
            return None
        levels: tuple[float | None, ...] = (lr_max,)
        if number == 1 and search.lr_max is not None:
            levels = spread(search.lr_max)
        if search.sampler != "grid":
            return Space._of_sampler(search, number, (lower, upper), levels)
        points = grid(lower, max(upper, lower), search.k_step)
        if number == 1 and search.ks is not None:
            points = search.ks
        ks = spread(points)
        if number == 1:
            ks = (BASELINE_KS[0], *(k for k in ks if k != BASELINE_KS[0]))
        bounds = (points[0], points[-1])
        return Space(search, _pairs(ks, levels), bounds, levels, _later(ks, levels, policy))

    @staticmethod
    def _of_sampler(
        search: SearchSpec,
        number: int,
        bounds: tuple[float, float],
        levels: tuple[float | None, ...],
    ) -> Space:
        """The baseline, at each level, is among stage 1's trials, and so within its bounds."""
        lower, upper = bounds
        if number > 1:
            upper = upper if upper > lower else search.cap
            return Space(search, (None,) * search.trials, (lower, upper), levels)
        stated = _pairs(BASELINE_KS, levels)
        chosen = (None,) * (search.trials - len(stated))
        bounds = (min(lower, *BASELINE_KS), max(upper, *BASELINE_KS))
        return Space(search, (*stated, *chosen), bounds, levels)

    @property
    def searched_levels(self) -> tuple[float, ...]:
        """The learning-rate levels, ascending; empty if candidates do not differ in theirs."""
        if len(self.levels) == 1:
            return ()
        return tuple(sorted(level for level in self.levels if level is not None))

    @property
    def lr_max(self) -> float | None:
        """The learning-rate level of all candidates; None if they have several, or if it is not
        searched."""
        return self.levels[0] if len(self.levels) == 1 else None

    def grown(self, policy: Policy = POLICY) -> Space | None:
        """This space with larger candidates added; None at the cap, and for samplers."""
        search, (lower, upper) = self.search, self.bounds
        if search.sampler != "grid" or upper + search.k_step > search.cap + 1e-9:
            return None
        growth = round(policy.growth_share * (upper - lower) / search.k_step)
        steps = max(policy.min_growth_steps, growth)
        new_upper = min(round(upper + steps * search.k_step, 10), search.cap)
        longer = grid(lower, new_upper, search.k_step)
        known = {point.k for point in self.points if point is not None}
        added = spread(k for k in longer if k > upper and k not in known)
        points = (*self.points, *_pairs(added, self.levels))
        later = self.later | {
            len(self.points) + index for index in _later(added, self.levels, policy)
        }
        return Space(search, points, (lower, longer[-1]), self.levels, later)

    def is_upper_edge(self, k: float) -> bool:
        """Whether ``k`` is the largest that the space holds; for a sampler, nearly so."""
        if self.search.sampler == "grid":
            return k == self.bounds[1]
        return k > self.bounds[1] - self.search.k_step


def _pairs(ks: Iterable[float], levels: Sequence[float | None]) -> tuple[Candidate, ...]:
    return tuple(Candidate(k, level) for k in ks for level in levels)


def _later(ks: Sequence[float], levels: Sequence[float | None], policy: Policy) -> frozenset[int]:
    """Indices of the candidates of these exponents, spread, that do not begin on the first seed."""
    first = math.ceil(policy.first_share * len(ks)) + policy.first_extra
    return frozenset(range(first * len(levels), len(ks) * len(levels)))


def spread(values: Iterable[Ordered]) -> tuple[Ordered, ...]:
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
