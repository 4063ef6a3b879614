"""The candidates of a stage, and how they become more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdecay_search.controls import BASELINE_KS
from kdecay_search.spec import SearchSpec, grid

GROWTH = 0.5
"""A grid whose best candidate is its largest grows by this share of its width …"""
MIN_GROWTH_STEPS = 2
"""… but by so many steps at least."""


@dataclass(frozen=True)
class Space:
    """The candidates of a stage. A grown space begins with the candidates that it grew from, so
    that a candidate's number keeps its meaning."""

    search: SearchSpec
    ks: tuple[float | None, ...]
    """None where the sampler chooses."""
    bounds: tuple[float, float]

    @staticmethod
    def of_stage(
        search: SearchSpec, number: int, earlier: tuple[float, ...], upper: float
    ) -> Space | None:
        """The space that stage ``number`` starts with; None if no larger term is left to try."""
        lower = search.k_min if number == 1 else round(earlier[-1] + search.k_step, 10)
        if number > 1 and lower > search.cap:
            return None
        if search.sampler != "grid":
            return Space._of_sampler(search, number, lower, upper)
        points = grid(lower, max(upper, lower), search.k_step)
        if number == 1 and search.ks is not None:
            points = search.ks
        ks = spread(points)
        if number == 1:
            ks = (BASELINE_KS[0], *(k for k in ks if k != BASELINE_KS[0]))
        return Space(search, ks, (points[0], points[-1]))

    @staticmethod
    def _of_sampler(search: SearchSpec, number: int, lower: float, upper: float) -> Space:
        """The baseline is one of stage 1's trials, and so within its bounds."""
        if number > 1:
            upper = upper if upper > lower else search.cap
            return Space(search, (None,) * search.trials, (lower, upper))
        base = BASELINE_KS[0]
        chosen = (None,) * (search.trials - 1)
        return Space(search, (base, *chosen), (min(lower, base), max(upper, base)))

    def grown(self) -> Space | None:
        """This space with larger candidates added; None at the cap, and for samplers."""
        search, (lower, upper) = self.search, self.bounds
        if search.sampler != "grid" or upper + search.k_step > search.cap + 1e-9:
            return None
        steps = max(MIN_GROWTH_STEPS, round(GROWTH * (upper - lower) / search.k_step))
        new_upper = min(round(upper + steps * search.k_step, 10), search.cap)
        longer = grid(lower, new_upper, search.k_step)
        added = spread(k for k in longer if k > upper and k not in self.ks)
        return Space(search, (*self.ks, *added), (lower, longer[-1]))

    def is_upper_edge(self, k: float) -> bool:
        if self.search.sampler == "grid":
            return k == self.bounds[1]
        return k > self.bounds[1] - self.search.k_step


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
