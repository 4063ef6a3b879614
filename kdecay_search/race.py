"""Who gets a further seed: a race of candidates, decided from the seeds before alone.

The numbers behind the rules are in docs/pruning.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdecay_search.choice import Choice
from kdecay_search.point import Point

MOST = 3
"""Candidates that get a further seed, beside what they are to beat, at most …"""
MASS = 0.8
"""… and no more than hold this much of the probability to be the best …"""
WORTH = 0.03
"""… unless all that the others might gain is less than this, in percentage points."""
SECOND_SEED = 1
"""Nothing is decided by the first seed alone: on this one, one candidate runs at least."""


def winners(judged: Choice, points: Iterable[Point], seed: int) -> list[Point]:
    """Those of ``points`` that run on ``seed``, the most probable to be the best first: until they,
    and what they are to beat, hold enough of what is left to win in the race.

    While one of them leads, one runs on every seed: it is what the study reports, and what the
    next stage is compared with.
    """
    given = list(points)
    one_leads = any(judged.mean(point) < judged.means[0] for point in given)
    return _most_probable(judged, given, least=int(one_leads or seed == SECOND_SEED))


def levels(judged: Choice, points: Iterable[Point]) -> list[Point]:
    """Those of ``points``, the baseline at other levels than the one that ``judged`` has first,
    that run beside it: by the same rules, among themselves."""
    return _most_probable(judged, points, least=0)


def _most_probable(judged: Choice, points: Iterable[Point], least: int) -> list[Point]:
    ranked = sorted(points, key=lambda point: (-judged.probability(point), point))
    left = sum(judged.probability(point) for point in ranked)
    spare = (1 - MASS) * (judged.probabilities[0] + left)
    stake = sum(judged.stake(point) for point in ranked)
    runners: list[Point] = []
    for point in ranked[:MOST]:
        if (left <= spare or stake <= WORTH) and len(runners) >= least:
            break
        runners.append(point)
        left -= judged.probability(point)
        stake -= judged.stake(point)
    return runners


def needs_baseline(judged: Choice, runners: Iterable[Point], seed: int) -> bool:
    """Whether k = 1 runs on ``seed``: on the second, so that there is a pair, and further while it
    is open whether a runner is better."""
    return seed == SECOND_SEED or any(not judged.gain(point).is_sure for point in runners)
