"""Who gets a further seed: a race of candidates, decided from the seeds before alone.

The numbers behind the rules are in docs/pruning.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdecay_search.choice import Choice

MOST = 3
"""Candidates that get a further seed, beside what they are to beat, at most …"""
MASS = 0.8
"""… and no more than hold this much of the probability to be the best …"""
WORTH = 0.03
"""… unless all that the others might gain is less than this, in percentage points."""
SECOND_SEED = 1
"""Nothing is decided by the first seed alone: on this one, one candidate runs at least."""


def winners(judged: Choice, ks: Iterable[float], seed: int) -> list[float]:
    """Those of ``ks`` that run on ``seed``, the most probable to be the best first: until they,
    and what they are to beat, hold enough of what is left to win in the race.

    While one of them leads, one runs on every seed: it is what the study reports, and what the
    next stage is compared with.
    """
    ranked = sorted(ks, key=lambda k: (-judged.probability(k), k))
    one_leads = any(judged.mean(k) < judged.means[0] for k in ranked)
    left = sum(judged.probability(k) for k in ranked)
    spare = (1 - MASS) * (judged.probabilities[0] + left)
    stake = sum(judged.stake(k) for k in ranked)
    runners: list[float] = []
    for k in ranked[:MOST]:
        is_enough = left <= spare or stake <= WORTH
        if is_enough and (runners or not (one_leads or seed == SECOND_SEED)):
            break
        runners.append(k)
        left -= judged.probability(k)
        stake -= judged.stake(k)
    return runners


def needs_baseline(judged: Choice, runners: Iterable[float], seed: int) -> bool:
    """Whether k = 1 runs on ``seed``: on the second, so that there is a pair, and further while it
    is open whether a runner is better."""
    return seed == SECOND_SEED or any(not judged.gain(k).is_sure for k in runners)
