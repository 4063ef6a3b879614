"""Who gets a further seed: a race of candidates, decided from the seeds before alone.

The numbers behind the rules are in docs/pruning.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdecay_search.belief import Belief
from kdecay_search.choice import Choice
from kdecay_search.point import Point

MOST = 4
"""Candidates that get a further seed, beside the baseline, at most …"""
WORTH = 0.005
"""… and each only if it is expected to lower the error of the chosen candidate by so many
percentage points."""
LIKELY = 16
"""So many of the most probable to be the best are considered."""
SECOND_SEED = 1
"""Nothing is decided by the first seed alone: on this one, one candidate runs at least."""


def likely(judged: Choice, points: Iterable[Point]) -> list[Point]:
    """Those of ``points`` that may be the best, the most probable first."""
    return sorted(points, key=lambda point: (-judged.probability(point), point))[:LIKELY]


def winners(
    belief: Belief, rival: Point, points: Sequence[Point], certain: Sequence[Point], seed: int
) -> list[Point]:
    """Those of ``points`` that run on ``seed``. ``points``: the most probable to be the best first.
    ``rival``: what they are to beat. ``certain``: whose results on that seed are there, or will be
    in any case.

    The one that leads runs on every seed: it is what the study reports, and what the next stage is
    compared with. Others join it where it is worth their run.
    """
    if not points:
        return []
    leader = belief.lowest([rival, *points])
    runners = worthwhile(belief, [leader, *certain], points)
    if leader in points:
        runners = [leader, *runners][:MOST]
    return runners or list(points[: int(seed == SECOND_SEED)])


def worthwhile(belief: Belief, running: Sequence[Point], others: Iterable[Point]) -> list[Point]:
    """Those of ``others`` that are worth a run beside ``running``, the worthiest first."""
    left = [point for point in others if point not in running]
    chosen: list[Point] = []
    worth = belief.worth(running)
    while left and len(chosen) < MOST:
        gains = {point: belief.worth([*running, *chosen, point]) for point in left}
        best = max(left, key=gains.__getitem__)
        if gains[best] - worth < WORTH:
            break
        worth = gains[best]
        chosen.append(best)
        left.remove(best)
    return chosen


def needs_baseline(judged: Choice, runners: Iterable[Point], seed: int) -> bool:
    """Whether k = 1 runs on ``seed``: on the second, so that there is a pair, and further while it
    is open whether a runner is better."""
    return seed == SECOND_SEED or any(not judged.gain(point).is_sure for point in runners)
