"""Seeds as a race: which further runs are trained, decided from the results so far alone.

A few runs at a time, the worthiest first, whichever candidate's and on whichever seed: a candidate
that the first seed left out may still run on it. It ends when no run is worth it any more, or when
half of the grid has been trained. The numbers behind the rules are in docs/pruning.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.selection import Selection
from kdecay_search.study.candidate import Candidate

WORTH = 0.0015
"""A further run is to lower the error of the chosen candidate by so many percentage points, on
average over what it may come to."""
SHARE = 0.5
"""Of the grid's runs, that a race trains at most …"""
SPARE = 2
"""… but it may train so many more than there are candidates …"""
SPARE_FOR_LEADER = 4
"""… and so many, where the last of them make sure of the one that leads."""
LIKELY = 16
"""So many of the most probable to be the best are considered …"""
KINDS_OF_SEED = 8
"""… on so many seeds that differ in who has run on them."""
BATCHES = (2, 8)
"""So many runs at a time, at least and at most …"""
BATCH_SHARE = 4
"""… and between them, one for so many candidates."""


@dataclass(frozen=True)
class Track:
    """What may still be run."""

    lacking: Mapping[Candidate, Collection[int]]
    """Seeds on which a candidate has not run."""
    seeds: int
    """Of the study."""
    left: int
    """Runs that the race may still begin; negative where it has begun more."""
    left_for_leader: int
    """Runs that may still be begun to make sure of the one that leads; ``left`` or more."""


def batch_size(candidates: int) -> int:
    """How many runs are decided together: more at a time keep more workers busy, fewer train
    less."""
    least, most = BATCHES
    return max(least, min(most, candidates // BATCH_SHARE))


def runs_at_most(candidates: int, seeds: int, spare: int = SPARE) -> int:
    """Runs that a race trains, all in all: ``spare`` more than there are candidates where the share
    of the grid is less."""
    return max(int(SHARE * candidates * seeds), candidates + spare)


def likely(judged: Selection, points: Iterable[Candidate]) -> list[Candidate]:
    """Those of ``points`` that may be the best, the most probable first."""
    return sorted(points, key=lambda point: (-judged.probability(point), point))[:LIKELY]


def next_runs(belief: Posterior, track: Track, size: int, certain: Sequence[Run] = ()) -> list[Run]:
    """The worthiest runs, ``size`` or one more of them, the worthiest first; none if no further
    run is worth it. ``certain``: that are begun in any case."""
    chosen: list[Run] = []
    worth = belief.worth(certain)
    while len(chosen) < size:
        begun = [*certain, *chosen]
        worths = {
            runs: belief.worth([*begun, *runs])
            for runs in _possible(belief, track, begun)
            if len(begun) + len(runs) <= track.left
        }
        gains = {runs: (total - worth) / len(runs) for runs, total in worths.items()}
        best = max(gains, key=gains.__getitem__, default=())
        if not best or gains[best] < WORTH:
            break
        chosen += best
        worth = worths[best]
    return chosen


def _possible(belief: Posterior, track: Track, begun: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """What may be run next: one candidate where others run, or, alone on its seed a run telling
    nothing, the leader and another on a seed of their own."""
    there = {seed: belief.ran.get(seed, frozenset()) for seed in range(track.seeds)}
    for point, seed in begun:
        there[seed] = there[seed] | {point}
    lacking = {
        point: [s for s in sorted(track.lacking[point]) if point not in there[s]]
        for point in belief.points
        if point in track.lacking
    }
    for point, seeds in lacking.items():
        kinds: dict[frozenset[Candidate], int] = {}
        for seed in seeds:
            kinds.setdefault(there[seed], seed)
        known = sorted((kind for kind in kinds if kind), key=lambda kind: (-len(kind), kinds[kind]))
        for kind in known[:KINDS_OF_SEED]:
            yield ((point, kinds[kind]),)
    fresh = next((seed for seed, points in there.items() if not points), None)
    able = [point for point, seeds in lacking.items() if fresh in seeds]
    if fresh is not None and able:
        leader = belief.lowest(able)
        yield from (((leader, fresh), (other, fresh)) for other in able if other != leader)
